"""Float32 against float64, on the same float32 numbers."""

import math

import pytest
import torch

from geodm_lightning.geometry import Spherical
from geodm_lightning.geometry.manifold import pairwise

NEAR = [("euclidean", 10.0), ("hyperbolic", 0.1), ("hyperbolic", 3.0), ("hyperbolic", 10.0)]
NEAR += [("spherical", 0.1), ("spherical", 2.5)]


@pytest.mark.parametrize(("name", "radius"), NEAR)
@pytest.mark.parametrize("offset", [1e-5, 1e-3, 1e-1])
def test_paired_distance_where_points_nearly_coincide(draw, build, name, radius, offset):
    manifold = build(name)
    u = draw(50, 16, radius=radius, dtype=torch.float32)
    sideways = u + draw(50, 16, radius=offset, dtype=torch.float32)
    along = u * (1 + offset)
    rtol = 1e-4 if (name, radius) == ("hyperbolic", 10.0) else 5e-6  # a turn costs sinh(10) there
    for v in (sideways, along):
        expected = manifold.dist2(u.double(), v.double())
        actual = manifold.dist2(u, v).double()
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)


def test_paired_distance_is_symmetric_in_float32(draw, build):
    manifold = build("hyperbolic")
    u = draw(50, 16, radius=5.0, dtype=torch.float32)
    v = u + draw(50, 16, radius=1e-3, dtype=torch.float32)
    torch.testing.assert_close(manifold.dist(u, v), manifold.dist(v, u), rtol=2e-6, atol=0)


@pytest.mark.parametrize("magnitude", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("angle", [1.0, 3.0, 10.0])
def test_hyperbolic_cdist_far_from_the_origin(draw, build, magnitude, angle):
    manifold = build("hyperbolic", magnitude)
    u = draw(20, 8, radius=angle / magnitude**0.5, dtype=torch.float32)
    v = draw(20, 8, radius=0.7 * angle / magnitude**0.5, dtype=torch.float32)
    actual, expected = manifold.cdist(u, v).double(), manifold.cdist(u.double(), v.double())
    torch.testing.assert_close(actual, expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("angle", [1.0, 3.0, 10.0])
def test_hyperbolic_centroid_far_from_the_origin(draw, build, angle):
    manifold = build("hyperbolic")
    beam = draw(1, 8, dtype=torch.float64) + draw(30, 8, radius=1e-3, dtype=torch.float64)
    u = (beam / beam.norm(dim=-1, keepdim=True) * angle).float()
    actual, expected = manifold.centroid(u).double(), manifold.centroid(u.double())
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6 * angle)


@pytest.mark.parametrize("name", ["hyperbolic", "spherical"])
def test_nothing_overflows_beyond_the_largest_angle(draw, build, name):
    manifold = build(name, 5.0, learnable=True)
    u = draw(10, 8, radius=1e3, dtype=torch.float32).requires_grad_()
    v = draw(10, 8, radius=1e3, dtype=torch.float32).requires_grad_()
    total = manifold.cdist(u, v).sum() + manifold.dist(u, v).sum()
    total = total + manifold.dist(manifold.centroid(u), manifold.centroid(v))
    gradients = torch.autograd.grad(total, [u, v, *manifold.parameters()])
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["hyperbolic", "spherical"])
def test_points_beyond_the_largest_angle_are_moved_along_their_ray(draw, build, name):
    manifold = build(name)
    u, v = draw(5, 4, dtype=torch.float64), draw(5, 4, radius=0.5, dtype=torch.float64)
    held = manifold.dist(u * manifold.max_angle, v)
    torch.testing.assert_close(manifold.dist(u * 100, v), held)
    torch.testing.assert_close(manifold.expmap0(u * 100), manifold.expmap0(u * manifold.max_angle))


@pytest.mark.parametrize("angle", [1e-3, 0.03, 0.06, 0.0632, 0.0633, 0.09, 0.11])
def test_series_continue_the_functions_they_stand_for(build, device, angle):
    for name, sine, arc in (
        ("hyperbolic", math.sinh, math.asinh),
        ("spherical", math.sin, math.asin),
    ):
        manifold = build(name)
        x = torch.tensor(angle, device=device, dtype=torch.float64)
        ratio, squared = manifold._ratio(x).item(), manifold._arc_squared(x.square() / 4).item()
        assert ratio == pytest.approx(sine(angle) / angle, rel=1e-15)
        assert squared == pytest.approx(arc(angle / 2) ** 2, rel=1e-15)


def test_slope_of_the_arc_is_finite_up_to_its_end(device, dtype):
    eps = torch.finfo(dtype).eps
    x = (1 - eps * torch.arange(-1, 6, device=device, dtype=dtype)).requires_grad_()
    value = Spherical.arcsn(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert (gradient.abs() <= eps**-0.5).all()
    torch.testing.assert_close(value, torch.full_like(value, math.pi / 2), rtol=1e-3, atol=0)


def test_gradient_is_finite_at_antipodes(draw, build, dtype):
    manifold = build("spherical", learnable=True)
    u = draw(5, 4, radius=torch.pi / 2, dtype=dtype).requires_grad_()
    for distances in (manifold.cdist(u, -u).diagonal(), manifold.dist(u, -u)):
        expected = torch.full_like(distances, torch.pi)
        torch.testing.assert_close(distances, expected, rtol=1e-3, atol=0)
        gradients = torch.autograd.grad(distances.sum(), [u, *manifold.parameters()])
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(draw, build, half):
    manifold = build("hyperbolic")
    u = draw(6, 8, dtype=torch.float32).to(half)
    v = draw(5, 8, dtype=torch.float32).to(half)
    expected = manifold.cdist(u.float(), v.float())
    assert torch.equal(manifold.cdist(u, v), expected)
    assert torch.equal(manifold.centroid(u), manifold.centroid(u.float()))


def test_autocast_leaves_the_gap_alone(draw, device):
    u, v = draw(6, 8, dtype=torch.float32), draw(5, 8, dtype=torch.float32)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        gap = pairwise(u, v).gap
    assert torch.equal(gap, pairwise(u, v).gap)
