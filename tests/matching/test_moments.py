import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import CovarianceMatching, MeanMatching, scale_features
from geodm_lightning.types import InputError

RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}


def loss(geometry, real, synthetic, generator):
    return MeanMatching()(scale_features(real, synthetic), geometry, generator=generator)


def test_flat_geometry_is_dm(features, flat, rng, dtype):
    real, synthetic = features(dtype)
    expected = (real.mean(1) - synthetic.mean(1)).square().sum(-1)
    torch.testing.assert_close(loss(flat, real, synthetic, rng), expected, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("offset", [1e-5, 1e-3])
def test_float32_holds_where_the_centroids_nearly_coincide(features, flat, learned, rng, offset):
    real, synthetic = features(torch.float32)
    near = real + offset * synthetic[:, :1]  # every feature of a class is moved alike
    for geometry in (flat, learned):
        actual = loss(geometry, real, near, rng).double()
        expected = loss(geometry, real.double(), near.double(), rng)
        # centroids are rounded before they are subtracted: 1e-7 of their size
        atol = 4 * (1e-7 * expected.sqrt() * real.norm(dim=-1).mean()).max().item()
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol)


def test_batched_equals_a_loop_over_classes(features, learned, rng, dtype):
    real, synthetic = features(dtype)
    loop = [loss(learned, real[i], synthetic[i], rng) for i in range(3)]
    torch.testing.assert_close(loss(learned, real, synthetic, rng), torch.stack(loop))


def test_order_and_rotation_do_not_matter(features, learned, device, rng, dtype):
    real, synthetic = features(dtype)
    q = torch.linalg.qr(torch.randn(8, 8, generator=rng, device=device, dtype=dtype)).Q
    expected = loss(learned, real, synthetic, rng)
    torch.testing.assert_close(loss(learned, real.flip(1), synthetic.flip(1), rng), expected)
    torch.testing.assert_close(loss(learned, real @ q, synthetic @ q, rng), expected)


def test_identical_sets_have_no_loss_and_no_gradient(features, learned, rng, dtype):
    real, _ = features(dtype)
    synthetic = real.clone().requires_grad_()
    value = loss(learned, real, synthetic, rng)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    assert (value == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradient_matches_finite_differences(features, learned, rng):
    real, synthetic = features(torch.float64)
    learned.double()
    assert torch.autograd.gradcheck(
        lambda synthetic, *_: loss(learned, real, synthetic, rng),
        (synthetic.requires_grad_(), *learned.parameters()),
    )


def dsdm_loss(geometry, real, synthetic, **options):
    scaled = scale_features(real, synthetic)
    return CovarianceMatching(**options)(scaled, geometry, generator=torch.Generator())


def dsdm(real, synthetic, covariance_weight=50.0):
    """One class of the published loss without its history, on unscaled features."""
    means = (real.mean(0) - synthetic.mean(0)).square().sum()
    gap = (torch.cov(synthetic.T) - torch.cov(real.T)).square().sum()
    return means + covariance_weight * gap / real.shape[1]


@pytest.mark.parametrize("weight", [50.0, 3.0, 0.0])
def test_flat_geometry_is_dsdm(features, flat, dtype, weight):
    real, synthetic = features(dtype)
    pairs = zip(real, synthetic, strict=True)
    expected = torch.stack([dsdm(r, s, weight) for r, s in pairs])
    actual = dsdm_loss(flat, real, synthetic, covariance_weight=weight)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


def test_covariances_on_a_factor_are_those_seen_from_the_real_centroid(features, device):
    names, weights = ["spherical", "hyperbolic"], [0.25, 0.75]
    geometry = build_product(
        names, curvature=0.8, weights=weights, learn_curvature=False, learn_weights=False
    ).to(device)
    real, synthetic = features(torch.float64)
    scaled = scale_features(real, synthetic)
    means = MeanMatching()(scaled, geometry, generator=torch.Generator())
    expected = []
    for c in range(3):
        total = means[c]
        for name, weight in zip(names, weights, strict=True):
            factor = geometry.factors[name]
            origin = factor.centroid(scaled.real[c])
            covariances = [
                torch.cov(factor.seen_from(u[c], origin).T) for u in (scaled.real, scaled.synthetic)
            ]
            gap = (covariances[0] - covariances[1]).square().sum()
            total = total + 50 / 8 * scaled.norm[c] ** 4 * weight * gap
        expected.append(total)
    torch.testing.assert_close(dsdm_loss(geometry, real, synthetic), torch.stack(expected))


def test_vanishing_curvature_is_dsdm(features, device):
    geometry = build_product(
        ["hyperbolic", "spherical"], curvature=1e-8, curvature_range=(1e-8, 1.0)
    ).to(device)
    real, synthetic = features(torch.float64)
    expected = torch.stack([dsdm(r, s) for r, s in zip(real, synthetic, strict=True)])
    torch.testing.assert_close(dsdm_loss(geometry, real, synthetic), expected, rtol=1e-6, atol=0)


def test_equal_sets_have_the_least_loss(features, learned, dtype):
    real, synthetic = features(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    size = dsdm_loss(learned, real, synthetic)
    same = real.clone().requires_grad_()
    value = dsdm_loss(learned, real, same)
    gradients = torch.autograd.grad(value.sum(), [same, *learned.parameters()])
    assert (value >= 0).all()
    assert (value <= tolerance * size).all()
    assert all((gradient.abs() <= 10 * tolerance * size.max()).all() for gradient in gradients)


def test_single_samples_have_no_covariance(features, flat):
    assert (MeanMatching.min_synthetic, CovarianceMatching.min_synthetic) == (1, 2)
    with pytest.raises(InputError, match="at least 2 samples per class, got 1; raise ipc"):
        dsdm_loss(flat, *features(torch.float32, num_synthetic=1))
    with pytest.raises(InputError, match="covariance_weight must not be negative, got -1"):
        CovarianceMatching(covariance_weight=-1.0)
