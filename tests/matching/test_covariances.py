import math

import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import covariances, scale_features
from geodm_lightning.matching.covariances import moment_costs, outer_gap

ALL = ["euclidean", "hyperbolic", "spherical", "stereographic"]
RTOL = {torch.float32: 1e-4, torch.float64: 1e-10}


def covariance_cost(real, synthetic, geometry):
    return moment_costs(real, synthetic, geometry).covariances


def plain_gap(x, y):
    """Squared distance of unbiased covariances, from the vectors themselves."""
    sides = (
        (side - side.mean(-2, keepdim=True)) / math.sqrt(side.shape[-2] - 1) for side in (x, y)
    )
    return outer_gap(*sides)


def plain_cost(real, synthetic, geometry):
    """The definition: every point seen from the real centroid, factor after factor."""
    total = 0
    points = zip(geometry.coordinates(real), geometry.coordinates(synthetic), strict=True)
    for (_, factor, weight), (u, v) in zip(geometry.active_factors(), points, strict=True):
        origin = factor.centroid(u)
        gap = plain_gap(factor.seen_from(u, origin), factor.seen_from(v, origin))
        total = total + weight * gap
    return total


def product(heads="identity", curvature=0.8, names=ALL[:3]):
    dims = {"identity": None, "split": [3, 3, 2], "learned": [8, 5, 8]}[heads]
    width = None if heads == "identity" else 8
    return build_product(
        names, curvature=curvature, heads=heads, dims=dims, num_features=width, seed=0
    )


def gradients(cost, real, synthetic, geometry):
    inputs = [real, synthetic, *geometry.parameters()]
    total = (cost(real, synthetic, geometry) * torch.tensor([1.0, 2.0, 3.0]).to(real)).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("heads", ["identity", "split", "learned"])
@pytest.mark.parametrize("curvature", [0.1, 0.8, 5.0])
@pytest.mark.parametrize("num_synthetic", [2, 5])
def test_cost_and_gradients_are_those_of_the_definition(
    features, device, dtype, heads, curvature, num_synthetic
):
    geometry = product(heads, curvature).to(device, dtype)
    real, synthetic, _ = scale_features(*features(dtype, num_synthetic=num_synthetic))
    real, synthetic = real.requires_grad_(), synthetic.requires_grad_()
    expected = plain_cost(real, synthetic, geometry)
    actual = covariance_cost(real, synthetic, geometry)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)
    slopes = (gradients(cost, real, synthetic, geometry) for cost in (covariance_cost, plain_cost))
    for actual, expected in zip(*slopes, strict=True):
        atol = RTOL[dtype] * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=atol)


@pytest.mark.parametrize("kappa", [-0.8, -1e-9, 0.0, 1e-9, 0.8])
def test_cost_where_the_curvature_passes_through_zero(features, device, dtype, kappa):
    geometry = product(names=["stereographic"]).to(device, dtype)
    with torch.no_grad():
        geometry.factors["stereographic"].kappa.fill_(kappa)
    real, synthetic, _ = scale_features(*features(dtype))
    real, synthetic = real.requires_grad_(), synthetic.requires_grad_()
    slopes = (gradients(cost, real, synthetic, geometry) for cost in (covariance_cost, plain_cost))
    for actual, expected in zip(*slopes, strict=True):
        atol = RTOL[dtype] * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=atol)


def test_batched_equals_a_loop_over_classes(features, learned, dtype):
    real, synthetic, _ = scale_features(*features(dtype))
    real, synthetic = real.unflatten(1, (2, 6)), synthetic[:, None].expand(-1, 2, -1, -1)
    loop = [
        covariance_cost(real[i, j], synthetic[i, j], learned) for i in range(3) for j in range(2)
    ]
    expected = torch.stack(loop).unflatten(0, (3, 2))
    actual = covariance_cost(real, synthetic, learned)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype] / 10, atol=0)


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_coincident_points_cost_nothing_and_have_finite_gradients(features, learned, dtype, at):
    real, _ = features(dtype)
    real = (at * real[:, :1] / real[:, :1].norm(dim=-1, keepdim=True)).expand(-1, 4, -1)
    synthetic = real[:, :2].clone().requires_grad_()
    cost = covariance_cost(real, synthetic, learned)
    torch.testing.assert_close(cost, torch.zeros_like(cost), rtol=0, atol=1e-10)
    slopes = torch.autograd.grad(cost.sum(), [synthetic, *learned.parameters()])
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("offset", [1e-4, 1e-2])
def test_float32_holds_where_points_lie_close_together(features, learned, offset):
    real, synthetic = features(torch.float32)
    centre = real[:, :1] / real[:, :1].norm(dim=-1, keepdim=True)
    # float64 sees the very points that float32 rounds: what is left is the law's own error
    real, synthetic = centre + offset * (real - real[:, :1]), centre + offset * synthetic
    expected = covariance_cost(real.double(), synthetic.double(), learned)
    actual = covariance_cost(real, synthetic, learned).double()
    torch.testing.assert_close(actual, expected, rtol=1e-6 / offset, atol=0)


@pytest.mark.parametrize("size", [2.0, 8.0, 30.0, 1e3])
def test_float32_holds_far_from_the_pole(learned, device, rng, size):
    axis = torch.eye(32, device=device)[0]
    points = [axis + 0.01 * torch.randn(3, n, 32, generator=rng, device=device) for n in (12, 5)]
    real, synthetic = (size * side for side in points)
    synthetic.requires_grad_()
    actual = covariance_cost(real, synthetic, learned)
    expected = plain_cost(real.double(), synthetic.double(), learned)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=0)
    slopes = torch.autograd.grad(actual.sum(), [synthetic, *learned.parameters()])
    assert all(slope.isfinite().all() for slope in slopes)


def test_products_are_shared_by_factors_with_the_same_coordinates(features, device, monkeypatch):
    calls = []
    of = covariances._Deviations.of
    monkeypatch.setattr(
        covariances._Deviations, "of", lambda *points: calls.append(1) or of(*points)
    )
    for heads, number in (("identity", 1), ("split", 3)):
        calls.clear()
        covariance_cost(*features(torch.float32), product(heads).to(device))
        assert len(calls) == number


@pytest.mark.parametrize("heads", ["identity", "split", "learned"])
def test_means_are_compared_by_the_heads_and_centroids_of_covariances(
    features, device, dtype, heads
):
    real, synthetic, _ = scale_features(*features(dtype))
    geometry = product(heads).to(device, dtype)
    expected = geometry.centroid_cost(real, synthetic)
    seen = []
    geometry.heads.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(moment_costs(real, synthetic, geometry).means, expected)
    assert len(seen) == 2  # one side each


def test_known_covariances(flat, device, dtype):
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], device=device, dtype=dtype)  # variances 2, 0
    y = torch.tensor([[0.0, -2.0], [0.0, 2.0], [7.0, 0.0]], device=device, dtype=dtype)
    expected = (torch.cov(x.T) - torch.cov(y.T)).square().sum()
    torch.testing.assert_close(covariance_cost(x, y, flat), expected)
    moved = covariance_cost(x + 100, y - 50, flat)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=0)


def test_gap_of_outer_products_is_the_plain_one(device, rng, dtype):
    options = {"generator": rng, "device": device, "dtype": dtype}
    a, b = torch.randn(2, 5, 7, **options), torch.randn(2, 3, 7, **options)
    expected = (a.mT @ a - b.mT @ b).square().sum((-2, -1))
    torch.testing.assert_close(outer_gap(a, b), expected)
