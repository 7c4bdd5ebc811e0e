import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import CentroidMatching, MeanMatching, scale_features
from geodm_lightning.types import InputError

RTOL = {torch.float32: 1e-4, torch.float64: 1e-9}


def loss(geometry, real, synthetic, **options):
    scaled = scale_features(real, synthetic)
    return CentroidMatching(**options)(scaled, geometry, generator=torch.Generator())


def hyperbolic(k, device):
    return build_product(
        ["hyperbolic"], curvature=1 / k, learn_curvature=False, learn_weights=False
    ).to(device, torch.float64)


def hdd(real, synthetic, k, scale, hold=float("inf")):
    """One class of HDD with geoopt's Lorentz model, whose k is the inverse curvature.

    Its own copy of geoopt holds the argument of cosh and sinh at 10.
    """
    lorentz = geoopt.Lorentz(k=1 / hyperbolic(k, "cpu").factors["hyperbolic"].magnitude)
    centroids = []
    for u in (real.double().cpu(), synthetic.double().cpu()):
        angle = u.norm(dim=-1, keepdim=True) / lorentz.k.sqrt()
        held = u * (angle.clamp(max=hold) / angle)
        mean = lorentz.expmap0(torch.cat([torch.zeros_like(angle), held], -1)).mean(0)
        centroids.append(lorentz.k.sqrt() * mean / lorentz.inner(mean, mean).abs().sqrt())
    return scale * lorentz.dist(*centroids)


@pytest.mark.parametrize("stretch", [0.3, 1.0, 4.0], ids=["within", "across", "beyond"])
@pytest.mark.parametrize("k", [1.0, 2.4, 0.5])
def test_hyperbolic_space_alone_is_hdd_on_features_as_they_are(features, device, dtype, k, stretch):
    real, synthetic = (stretch * x for x in features(dtype))
    pairs = zip(real, synthetic, strict=True)
    expected = torch.stack([hdd(r, s, k, 100.0, hold=10.0) for r, s in pairs]).to(real)
    actual = loss(hyperbolic(k, device), real, synthetic, scale=100.0)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("stretch", [0.3, 1.0, 4.0], ids=["within", "across", "beyond"])
def test_the_images_are_pulled_as_hdd_pulls_them(features, device, stretch):
    real, synthetic = (stretch * x for x in features(torch.float64))
    synthetic.requires_grad_()
    expected = sum(hdd(r, s, 1.0, 20.0, hold=10.0) for r, s in zip(real, synthetic, strict=True))
    (expected,) = torch.autograd.grad(expected, synthetic)
    actual = loss(hyperbolic(1.0, device), real, synthetic).sum()
    (actual,) = torch.autograd.grad(actual, synthetic)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * expected.norm().item())


@pytest.mark.parametrize("k", [1.0, 2.4, 0.5])
def test_without_a_hold_it_is_hdd_at_unit_scale(features, device, dtype, k):
    real, synthetic = features(dtype)
    scaled = scale_features(real, synthetic)
    pairs = zip(scaled.real, scaled.synthetic, strict=True)
    expected = torch.stack([hdd(r, s, k, 20.0) for r, s in pairs]).to(real)
    actual = loss(hyperbolic(k, device), real, synthetic, hold=None)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


def test_flat_space_is_the_distance_of_means(features, flat, dtype):
    real, synthetic = features(dtype)
    norm = real.norm(dim=-1).mean(-1)
    expected = 20 * (real.mean(1) - synthetic.mean(1)).norm(dim=-1) / norm
    torch.testing.assert_close(loss(flat, real, synthetic), expected, rtol=1e-6, atol=0)


def test_in_flat_space_the_pull_is_that_of_dm_over_the_gap(features, flat):
    real, synthetic = features(torch.float64)
    synthetic.requires_grad_()
    scaled, norm = scale_features(real, synthetic), real.norm(dim=-1).mean(-1)
    means = MeanMatching()(scaled, flat, generator=torch.Generator())
    (dm,) = torch.autograd.grad(means.sum(), synthetic)
    (actual,) = torch.autograd.grad(loss(flat, real, synthetic).sum(), synthetic)
    gap = (real.mean(1) - synthetic.mean(1)).norm(dim=-1).detach()
    expected = dm * (20 / (2 * norm * gap))[:, None, None]
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-12)


def test_product_adds_squared_distances_at_unit_scale(features, device):
    real, synthetic = features(torch.float64)
    names, weights = ["euclidean", "hyperbolic", "spherical"], [0.5, 0.25, 0.25]
    fixed = {"curvature": 0.7, "learn_curvature": False, "learn_weights": False}
    whole = build_product(names, weights=weights, **fixed).to(device)
    squared = [
        w * loss(build_product([g], **fixed).to(device), real, synthetic, hold=None) ** 2
        for g, w in zip(names, weights, strict=True)
    ]
    expected = torch.stack(squared).sum(0).sqrt()
    for hold in (None, 10.0):
        torch.testing.assert_close(loss(whole, real, synthetic, hold=hold), expected)


def test_a_product_reduced_to_hyperbolic_space_keeps_its_unit(features, device):
    real, synthetic = features(torch.float32)
    product = build_product(["euclidean", "hyperbolic"], curvature=1.0).to(device)
    with torch.no_grad():
        product.weight_logits.copy_(torch.tensor([-20.0, 0.0]))
    before = loss(product, real, synthetic)
    assert product.skip_vanished_() == ["euclidean"]
    torch.testing.assert_close(loss(product, real, synthetic), before, rtol=1e-5, atol=0)


def test_equal_sets_have_no_loss_and_no_gradient(features, learned, dtype):
    real, _ = features(dtype)
    synthetic = real.clone().requires_grad_()
    value = loss(learned, real, synthetic)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    assert (value == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("stretch", [0.3, 1.0, 4.0], ids=["within", "across", "beyond"])
def test_equal_sets_are_not_pulled_in_hyperbolic_space(features, device, dtype, stretch):
    real = stretch * features(dtype)[0]
    synthetic = real.clone().requires_grad_()
    value = loss(hyperbolic(1.0, device), real, synthetic)
    (gradient,) = torch.autograd.grad(value.sum(), synthetic)
    assert (value == 0).all()
    assert (gradient == 0).all()


def test_the_pull_does_not_fade(features, learned, dtype):
    real, _ = features(dtype)
    pulls = []
    for offset in (1e-1, 1e-3):
        synthetic = (real + offset).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(learned, real, synthetic).sum(), synthetic)
        pulls.append(gradient.norm())
    torch.testing.assert_close(*pulls, rtol=0.1, atol=0)


def test_beyond_the_hold_the_norms_of_samples_do_not_matter(features, device, dtype):
    real, synthetic = (x * (12 / x.norm(dim=-1).min()) for x in features(dtype))
    space = hyperbolic(1.0, device)
    lengths = torch.linspace(0.9, 2, 5, device=device, dtype=dtype)[:, None]
    moved = loss(space, real, lengths * synthetic)
    torch.testing.assert_close(moved, loss(space, real, synthetic))
    at_unit_scale = [loss(space, real, x, hold=None) for x in (synthetic, lengths * synthetic)]
    assert not torch.allclose(*at_unit_scale)


def test_a_feature_at_the_origin_has_a_finite_pull(features, device):
    real, synthetic = features(torch.float32)
    synthetic = synthetic.mul(torch.arange(5, device=device)[:, None] > 0).requires_grad_()
    (pull,) = torch.autograd.grad(loss(hyperbolic(1.0, device), real, synthetic).sum(), synthetic)
    assert pull.isfinite().all()


def test_refusals():
    for name, value in (("scale", 0.0), ("hold", -1.0), ("hold", float("inf"))):
        with pytest.raises(InputError, match=f"{name} must be positive and finite"):
            CentroidMatching(**{name: value})
    with pytest.raises(InputError, match=r"hold 40 lies beyond the 32 radii of curvature"):
        CentroidMatching(hold=40.0)
