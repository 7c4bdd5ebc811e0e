import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import KernelMatching, MeanMatching, scale_features
from geodm_lightning.matching.kernels import KERNELS, mmd2
from geodm_lightning.types import InputError

RTOL = {torch.float32: 1e-6, torch.float64: 1e-10}


def loss(kernel, geometry, real, synthetic):
    source = torch.Generator()
    return KernelMatching(kernel)(scale_features(real, synthetic), geometry, generator=source)


def m3d(kernel, real, synthetic):
    """One class of the published loss on unscaled features, samples stacked as M3D does."""
    x = torch.cat([synthetic, real])
    squared = (x[:, None] - x[None]).square().sum(-1)
    if kernel == "gaussian":
        bandwidth = squared.detach().sum() / (len(x) ** 2 - len(x))
        k = sum(torch.exp(-squared / (bandwidth * 2.0**i)) for i in range(-2, 3))
    elif kernel == "laplace":
        k = sum(torch.exp(-gamma * squared) for gamma in (0.1, 1, 5))
    else:
        k = x @ x.T
        k = (k + 1) ** 2 if kernel == "polynomial" else k
    n = len(synthetic)
    return k[:n, :n].mean() - 2 * k[:n, n:].mean() + k[n:, n:].mean()


@pytest.mark.parametrize("kernel", KERNELS)
def test_flat_geometry_is_m3d(features, flat, dtype, kernel):
    real, synthetic = features(dtype)
    # the plain formula subtracts large numbers itself, hence float64 for the reference
    pairs = zip(real.double(), synthetic.double(), strict=True)
    expected = torch.stack([m3d(kernel, r, s) for r, s in pairs]).to(dtype)
    actual = loss(kernel, flat, real, synthetic)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_in_flat_geometry_is_that_of_m3d(features, flat, kernel):
    real, synthetic = features(torch.float64)
    synthetic.requires_grad_()
    expected = sum(m3d(kernel, r, s) for r, s in zip(real, synthetic, strict=True))
    actual = loss(kernel, flat, real, synthetic).sum()
    gradients = [torch.autograd.grad(value, synthetic)[0] for value in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_linear_kernel_is_mean_matching(features, flat, dtype):
    real, synthetic = features(dtype)
    scaled = scale_features(real, synthetic)
    expected = MeanMatching()(scaled, flat, generator=torch.Generator())
    torch.testing.assert_close(loss("linear", flat, real, synthetic), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_product_is_the_weighted_sum_over_factors(features, device, kernel):
    names, weights = ["spherical", "hyperbolic", "euclidean"], [0.5, 0.3, 0.2]
    real, synthetic = features(torch.float64)
    fixed = {"curvature": 0.7, "learn_curvature": False, "learn_weights": False}
    whole = build_product(names, weights=weights, **fixed).double().to(device)
    parts = [
        w * loss(kernel, build_product([name], **fixed).double().to(device), real, synthetic)
        for name, w in zip(names, weights, strict=True)
    ]
    expected = torch.stack(parts).sum(0)
    actual = loss(kernel, whole, real, synthetic)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)  # weights are float32


@pytest.mark.parametrize(("kernel", "power"), [("gaussian", 0), ("linear", 2)])
def test_unit_of_the_features(features, learned, kernel, power):
    real, synthetic = features(torch.float64)
    one, other = (loss(kernel, learned, s * real, s * synthetic) for s in (1.0, 7.0))
    torch.testing.assert_close(other, 7.0**power * one)


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_sets_have_no_loss_and_no_gradient(features, learned, kernel):
    real, _ = features(torch.float64)
    learned.double()
    synthetic = real.clone().requires_grad_()
    size = loss(kernel, learned, real, real.roll(1, 0)).max()
    value = loss(kernel, learned, real, synthetic)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    assert (value.abs() <= 1e-12 * size).all()
    assert all((gradient.abs() <= 1e-9 * size).all() for gradient in gradients)


def test_discrepancy_of_known_kernels(device, dtype):
    ones = torch.ones(2, 3, 3, device=device, dtype=dtype)
    assert (mmd2(ones, ones, ones) == 0).all()
    assert (mmd2(5 * ones, ones, 2 * ones) == 5).all()


def test_geodesic_gaussians_need_not_be_positive_definite(device):
    """Six points on a circle are all that is needed (Feragen et al., 2015)."""
    angle = torch.arange(6, device=device, dtype=torch.float64) * torch.pi / 3
    circle = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * torch.pi / 2  # an equator
    sphere = build_product(["spherical"], curvature=1.0).double().to(device)
    costs = sphere.factor_costs(circle, circle)[0]
    assert torch.linalg.eigvalsh(torch.exp(-costs / (4 * costs.mean()))).min() < -1e-3
    plane = build_product(["euclidean"], curvature=1.0).double().to(device)
    costs = plane.factor_costs(circle, circle)[0]
    assert torch.linalg.eigvalsh(torch.exp(-costs / (4 * costs.mean()))).min() > -1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_real_features_have_a_graph_only_where_a_curvature_is_learned(
    features, flat, learned, kernel
):
    real, _ = features(torch.float32)
    for geometry, expected in ((flat, False), (learned, True)):
        assert loss(kernel, geometry, real, real).requires_grad is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rbf"}, "unknown kernel 'rbf'; choose one of gaussian, linear"),
        ({"reference_norm": 0}, "reference_norm must be positive, got 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        KernelMatching(**options)
