"""Laws that every matching strategy obeys."""

import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import (
    CentroidMatching,
    CharacteristicMatching,
    CovarianceMatching,
    KernelMatching,
    MeanMatching,
    OptimalTransport,
    TransportMatching,
    kernels,
    scale_features,
)

STRATEGIES = {
    "mean": MeanMatching(),
    "characteristic": CharacteristicMatching(16),
    "covariance": CovarianceMatching(),
    "gaussian": KernelMatching("gaussian"),
    "linear": KernelMatching("linear"),
    "polynomial": KernelMatching("polynomial"),
    "laplace": KernelMatching("laplace"),
    "centroid": CentroidMatching(),
    "centroid at unit scale": CentroidMatching(hold=None),
    "transport": OptimalTransport(TransportMatching()),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return STRATEGIES[request.param]


def loss(strategy, geometry, real, synthetic):
    source = torch.Generator().manual_seed(1)
    return strategy(scale_features(real, synthetic), geometry, generator=source)


def test_batched_equals_a_loop_over_classes(strategy, features, learned, dtype):
    real, synthetic = features(dtype)
    loop = [loss(strategy, learned, real[i], synthetic[i]) for i in range(3)]
    whole = loss(strategy, learned, real, synthetic)
    assert whole.shape == (3,)
    torch.testing.assert_close(whole, torch.stack(loop), rtol=1e-4, atol=1e-5)


def test_heads_and_repeated_factors_are_matched_like_any_other(strategy, features, device):
    geometry = build_product(
        ["hyperbolic", "euclidean", "spherical", "hyperbolic"],
        curvature={"hyperbolic": 0.5, "hyperbolic_2": 2.0, "spherical": 1.0},
        heads="learned",
        dims=[3, 2, 4, 3],
        num_features=8,
    ).to(device)
    real, synthetic = features(torch.float32)
    synthetic.requires_grad_()
    whole = loss(strategy, geometry, real, synthetic)
    loop = [loss(strategy, geometry, real[i], synthetic[i]) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(loop), rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(whole.sum(), [synthetic, *geometry.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all((gradient != 0).any() for gradient in gradients)


def test_order_of_samples_does_not_matter(strategy, features, learned, dtype):
    real, synthetic = features(dtype)
    moved = loss(strategy, learned, real.roll(5, 1), synthetic.flip(1))
    expected = loss(strategy, learned, real, synthetic)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_magnitude_follows_the_loss_from_network_to_network(strategy, features, learned):
    if strategy in (STRATEGIES["covariance"], STRATEGIES["laplace"], STRATEGIES["polynomial"]):
        pytest.skip("a sum of different powers of the feature norm")
    real, synthetic = features(torch.float64)
    ratios = [
        loss(strategy, learned, scale * real, scale * synthetic)
        / strategy.magnitude(scale_features(scale * real, scale * synthetic))
        for scale in (1.0, 5.0)
    ]
    torch.testing.assert_close(*ratios)


def test_fewest_synthetic_samples_suffice(strategy, features, learned, dtype):
    real, synthetic = features(dtype, num_synthetic=strategy.min_synthetic)
    assert loss(strategy, learned, real, synthetic).isfinite().all()


def test_coincident_features_stay_finite(strategy, features, learned, dtype):
    real, _ = features(dtype)
    point = real[:, :1].expand_as(real)
    for one, other in ((real, real), (point, point), (0 * point, 0 * point), (real, 0 * real)):
        synthetic = other.clone().requires_grad_()
        value = loss(strategy, learned, one, synthetic)
        gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
        assert value.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_float32_holds_at_the_size_of_real_features(strategy, learned, rng, device):
    if isinstance(strategy, CharacteristicMatching):
        pytest.skip("the two precisions draw different frequencies")
    options = {"generator": rng, "device": device, "dtype": torch.float64}
    centre = torch.rand(2, 1, 256, **options)
    real, synthetic = (
        (centre + torch.randn(2, n, 256, **options)).relu() * 1.8 for n in (64, 10)
    )  # norm about 25, like a ConvNet-3
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = synthetic.to(dtype).requires_grad_()
        values.append(loss(strategy, learned, real.to(dtype), leaf).double())
        gradients.append(torch.autograd.grad(values[-1].sum(), leaf)[0].double())
    torch.testing.assert_close(*values, rtol=1e-4, atol=0)
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[1].norm()


def test_gradient_matches_finite_differences(strategy, features, learned, monkeypatch):
    if isinstance(strategy, OptimalTransport):
        pytest.skip("the plan is held fixed, see test_transport_matching")
    held = torch.full((3,), 0.7, dtype=torch.float64, device=learned.weights.device)
    monkeypatch.setattr(kernels, "_pooled_mean", lambda costs: held)  # no gradient through it
    real, synthetic = features(torch.float64, num_real=4, num_synthetic=3)
    learned.double()
    assert torch.autograd.gradcheck(
        lambda synthetic, *_: loss(strategy, learned, real, synthetic),
        (synthetic.requires_grad_(), *learned.parameters()),
        fast_mode=True,
    )
