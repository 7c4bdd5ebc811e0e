import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import CentroidMatching, scale_features
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


@pytest.mark.parametrize("k", [1.0, 2.4, 0.5])
def test_hyperbolic_space_is_hdd(features, device, dtype, k):
    real, synthetic = features(dtype)
    scaled = scale_features(real, synthetic)
    pairs = zip(scaled.real, scaled.synthetic, strict=True)
    expected = torch.stack([hdd(r, s, k, 20.0) for r, s in pairs]).to(real)
    actual = loss(hyperbolic(k, device), real, synthetic)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("radius", [0.5, 3.0, 10.0])
def test_radius_is_hdd_on_features_of_that_length(features, device, dtype, radius):
    k = 2.4
    real, synthetic = features(dtype)
    length = radius / hyperbolic(k, device).factors["hyperbolic"].sqrt_magnitude
    on_ray = [length * x / x.norm(dim=-1, keepdim=True) for x in (real, synthetic)]
    expected = torch.stack([hdd(r, s, k, 100.0) for r, s in zip(*on_ray, strict=True)]).to(real)
    actual = loss(hyperbolic(k, device), real, synthetic, scale=100.0, radius=radius)
    torch.testing.assert_close(actual, expected, rtol=RTOL[dtype], atol=0)


def test_raw_features_of_large_norm_are_the_radius_ten(features, device):
    real, synthetic = features(torch.float64)
    raw = [25 * x / x.norm(dim=-1).min() for x in (real, synthetic)]
    pairs = zip(*raw, strict=True)
    expected = torch.stack([hdd(r, s, 1.0, 20.0, hold=10.0) for r, s in pairs])
    actual = loss(hyperbolic(1.0, device), real, synthetic, radius=10.0)
    torch.testing.assert_close(actual, expected.to(real), rtol=1e-6, atol=0)


def test_flat_space_is_the_distance_of_means(features, flat, dtype):
    real, synthetic = features(dtype)
    norm = real.norm(dim=-1).mean(-1)
    expected = 20 * (real.mean(1) - synthetic.mean(1)).norm(dim=-1) / norm
    torch.testing.assert_close(loss(flat, real, synthetic), expected, rtol=1e-6, atol=0)


def test_product_adds_squared_distances(features, device):
    real, synthetic = features(torch.float64)
    names, weights = ["euclidean", "hyperbolic", "spherical"], [0.5, 0.25, 0.25]
    fixed = {"curvature": 0.7, "learn_curvature": False, "learn_weights": False}
    whole = build_product(names, weights=weights, **fixed).to(device)
    for radius in (None, 1.2):
        squared = [
            w * loss(build_product([g], **fixed).to(device), real, synthetic, radius=radius) ** 2
            for g, w in zip(names, weights, strict=True)
        ]
        expected = torch.stack(squared).sum(0).sqrt()
        torch.testing.assert_close(loss(whole, real, synthetic, radius=radius), expected)


@pytest.mark.parametrize("radius", [None, 1.5])
def test_equal_sets_have_no_loss_and_no_gradient(features, learned, dtype, radius):
    real, _ = features(dtype)
    synthetic = real.clone().requires_grad_()
    value = loss(learned, real, synthetic, radius=radius)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    assert (value == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


def test_the_pull_does_not_fade(features, learned, dtype):
    real, _ = features(dtype)
    pulls = []
    for offset in (1e-1, 1e-3):
        synthetic = (real + offset).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(learned, real, synthetic).sum(), synthetic)
        pulls.append(gradient.norm())
    torch.testing.assert_close(*pulls, rtol=0.1, atol=0)


def test_with_a_radius_the_norms_of_samples_do_not_matter(features, device, dtype):
    real, synthetic = features(dtype)
    space = hyperbolic(1.0, device)
    lengths = torch.linspace(0.5, 2, 5, device=device, dtype=dtype)[:, None]
    moved = loss(space, real, lengths * synthetic, radius=2.0)
    torch.testing.assert_close(moved, loss(space, real, synthetic, radius=2.0))
    assert not torch.allclose(loss(space, real, lengths * synthetic), loss(space, real, synthetic))


def test_refusals(features, learned):
    for name, value in (("scale", 0.0), ("radius", -1.0), ("radius", float("inf"))):
        with pytest.raises(InputError, match=f"{name} must be positive and finite"):
            CentroidMatching(**{name: value})
    with pytest.raises(InputError, match=r"radius 10 lies beyond the 3\.141 radii of curvature"):
        loss(learned, *features(torch.float32), radius=10.0)
