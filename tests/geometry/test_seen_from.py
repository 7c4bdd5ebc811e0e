"""Points seen from another origin: logarithms there, carried to the pole."""

import warnings
from functools import partial

import pytest
import torch

from geodm_lightning.geometry.stereographic import Stereographic

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

ALL = ["euclidean", "hyperbolic", "spherical"]
CURVED = ["hyperbolic", "spherical"]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}
ORIGINS = [0.0, 1e-4, 0.05, 0.9]  # distances of the new origin from the pole


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", ORIGINS)
def test_length_is_the_distance_from_the_origin(draw, build, dtype, name, radius):
    manifold = build(name, 2.0)
    u, p = draw(3, 7, 4, dtype=dtype), draw(3, 4, radius=radius, dtype=dtype)
    expected = manifold.dist(u, p[:, None].expand_as(u))
    length = manifold.seen_from(u, p).norm(dim=-1)
    torch.testing.assert_close(length, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", ORIGINS)
def test_a_move_of_the_origin_is_an_isometry(draw, build, dtype, name, radius):
    manifold = build(name, 1.5).to(dtype)
    u, p = draw(7, 4, radius=0.6, dtype=dtype), draw(4, radius=radius, dtype=dtype)
    seen = manifold.seen_from(u, p)
    close = {"rtol": 10 * TOLERANCE[dtype], "atol": 10 * TOLERANCE[dtype]}
    apart = ~torch.eye(7, dtype=torch.bool, device=u.device)
    distances = [manifold.cdist(points, points)[apart] for points in (seen, u)]
    torch.testing.assert_close(*distances, **close)
    opposite = manifold.seen_from(torch.zeros_like(p)[None], p)
    torch.testing.assert_close(opposite[0], -p, **close)
    torch.testing.assert_close(manifold.seen_from(seen, -p), u, **close)


@pytest.mark.parametrize("magnitude", [0.3, 1.0, 2.0])
def test_hyperbolic_logarithm_and_transport(draw, build, magnitude):
    manifold = build("hyperbolic", magnitude).double()
    reference = geoopt.Lorentz(k=1 / manifold.magnitude)
    u, p = draw(6, 4, radius=1.1, dtype=torch.float64), draw(4, radius=0.7, dtype=torch.float64)
    at = manifold.expmap0(p)
    carried = reference.transp0back(at, reference.logmap(at, manifold.expmap0(u)))
    torch.testing.assert_close(carried[:, 0], torch.zeros_like(carried[:, 0]), rtol=0, atol=1e-7)
    torch.testing.assert_close(manifold.seen_from(u, p), carried[:, 1:], rtol=1e-6, atol=1e-7)


def test_spherical_logarithm_and_transport(draw, build):
    manifold, reference = build("spherical"), geoopt.Sphere()
    u, p = draw(6, 4, radius=1.1, dtype=torch.float64), draw(4, radius=0.7, dtype=torch.float64)
    at, pole = manifold.expmap0(p), manifold.expmap0(torch.zeros_like(p))
    log = reference.logmap(at, manifold.expmap0(u))
    turn = reference.logmap(at, pole) + reference.logmap(pole, at)
    inner = (reference.logmap(at, pole) * log).sum(-1, keepdim=True)
    carried = log - inner / p.square().sum() * turn  # geoopt's own transport is a projection
    torch.testing.assert_close(carried[:, 0], torch.zeros_like(carried[:, 0]), rtol=0, atol=1e-7)
    torch.testing.assert_close(manifold.seen_from(u, p), carried[:, 1:], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", ORIGINS)
def test_the_origin_sees_itself_at_zero(draw, build, dtype, name, radius):
    manifold = build(name, 1.3, learnable=True)
    p = draw(3, 4, radius=radius, dtype=dtype).requires_grad_()
    u = p.detach()[:, None].clone().requires_grad_()
    seen = manifold.seen_from(u, p)
    assert (seen == 0).all()
    parameters = list(manifold.parameters())
    direction = draw(3, 1, 4, dtype=dtype)
    gradients = torch.autograd.grad((seen * direction).sum(), [u, p, *parameters])
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(gradients[1], -gradients[0][:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", ORIGINS)
def test_slope_where_the_origin_sees_itself(draw, build, device, name, radius):
    manifold = build(name, 1.3).double()
    p = draw(4, radius=radius, dtype=torch.float64)
    step = 1e-6 * torch.eye(4, device=device, dtype=torch.float64)
    apart = (manifold.seen_from(p + step, p) - manifold.seen_from(p - step, p)) / 2e-6
    slope = torch.autograd.functional.jacobian(lambda u: manifold.seen_from(u[None], p)[0], p)
    torch.testing.assert_close(slope, apart.mT, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("radius", [1e-3, 1.0])
@pytest.mark.parametrize("offset", [1e-5, 1e-2])
def test_float32_holds_beside_the_origin(draw, build, name, radius, offset):
    manifold = build(name)
    p = draw(20, 16, radius=radius, dtype=torch.float32)
    u = p[:, None] + draw(20, 5, 16, radius=offset * radius, dtype=torch.float32)
    seen, exact = manifold.seen_from(u, p).double(), manifold.seen_from(u.double(), p.double())
    assert ((seen - exact).norm(dim=-1) <= 2e-6 * exact.norm(dim=-1)).all()


@pytest.mark.parametrize("name", CURVED)
def test_float32_holds_far_from_the_pole(draw, build, name):
    manifold = build(name)
    reach = 8.0 if name == "hyperbolic" else 2.0
    p, u = draw(9, 8, radius=reach, dtype=torch.float32), draw(9, 5, 8, dtype=torch.float32)
    seen, exact = manifold.seen_from(u, p).double(), manifold.seen_from(u.double(), p.double())
    torch.testing.assert_close(seen, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", [1e-3, 0.05, 0.2, 0.8])
def test_gradient_of_seen_points(draw, build, name, radius):
    manifold = build(name, 1.3, learnable=True).double()
    p = draw(2, 3, radius=radius, dtype=torch.float64).requires_grad_()
    near = p.detach()[:, None] + draw(2, 1, 3, radius=radius / 3, dtype=torch.float64)
    u = torch.cat([near, draw(2, 2, 3, dtype=torch.float64)], dim=1).requires_grad_()
    inputs = (u, p, *manifold.parameters())
    assert torch.autograd.gradcheck(lambda u, p, *_: manifold.seen_from(u, p), inputs)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("radius", [0.0, 1e2])
def test_nothing_overflows(draw, build, name, radius):
    manifold = build(name, 5.0, learnable=True)
    u = draw(10, 8, radius=1e3, dtype=torch.float32).requires_grad_()
    p = draw(8, radius=radius, dtype=torch.float32).requires_grad_()
    seen = manifold.seen_from(u, p)
    expected = manifold.dist(u, p.expand_as(u))
    torch.testing.assert_close(seen.norm(dim=-1), expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(seen.sum(), [u, p, *manifold.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_antipodes_have_finite_gradients(draw, build, dtype):
    manifold = build("spherical", learnable=True)
    p = draw(4, radius=torch.pi / 2, dtype=dtype).requires_grad_()
    seen = manifold.seen_from(-p[None], p)
    gradients = torch.autograd.grad(seen.sum(), [p, *manifold.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


VIEW = {torch.float32: 1e-5, torch.float64: 1e-10}


def viewed(manifold, u, p):
    """``alpha u + beta p``, which is to be ``seen_from(u, p)``."""
    radius, origin = u.norm(dim=-1), p.norm(dim=-1, keepdim=True)
    alpha, beta = manifold.view(radius, origin, (u * p[..., None, :]).sum(-1))
    return alpha[..., None] * u + beta[..., None] * p[..., None, :]


def assert_viewed_as_seen(manifold, u, p, direction, tolerance):
    inputs = [u.requires_grad_(), p.requires_grad_(), *manifold.parameters()]
    results = [function(u, p) for function in (partial(viewed, manifold), manifold.seen_from)]
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    for actual, expected in zip(
        *(torch.autograd.grad((result * direction).sum(), inputs) for result in results),
        strict=True,
    ):
        scale = max(1, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", ORIGINS)
@pytest.mark.parametrize("magnitude", [1e-6, 0.4, 1.5])
def test_a_view_is_what_is_seen(draw, build, dtype, name, radius, magnitude):
    manifold = build(name, magnitude, learnable=True).to(dtype)
    u, p = draw(3, 7, 16, radius=0.8, dtype=dtype), draw(3, 16, radius=radius, dtype=dtype)
    assert_viewed_as_seen(manifold, u, p, draw(3, 7, 16, dtype=dtype), VIEW[dtype])


@pytest.mark.parametrize("kappa", [-1.5, -1e-6, -1e-13, 0.0, 1e-13, 1e-6, 1.5])
@pytest.mark.parametrize("radius", [0.0, 0.9])
def test_a_stereographic_view_is_what_is_seen(draw, device, dtype, kappa, radius):
    manifold = Stereographic(kappa, learnable=True).to(device, dtype)
    u, p = draw(3, 7, 16, radius=0.8, dtype=dtype), draw(3, 16, radius=radius, dtype=dtype)
    assert_viewed_as_seen(manifold, u, p, draw(3, 7, 16, dtype=dtype), VIEW[dtype])


@pytest.mark.parametrize("name", CURVED)
def test_a_view_holds_points_beyond_the_reach(draw, build, name):
    manifold = build(name, 0.8).double()
    far = draw(5, 4, radius=1e3, dtype=torch.float64)
    p = draw(4, radius=0.6, dtype=torch.float64)
    expected = manifold.seen_from(far, p)
    torch.testing.assert_close(viewed(manifold, far, p), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", [*ALL, "stereographic"])
@pytest.mark.parametrize("radius", ORIGINS)
def test_a_view_of_itself_is_zero_with_finite_gradients(draw, build, device, dtype, name, radius):
    if name == "stereographic":
        manifold = Stereographic(0.0, learnable=True).to(device)
    else:
        manifold = build(name, 1.3, learnable=True)
    p = draw(3, 4, radius=radius, dtype=dtype).requires_grad_()
    u = p.detach()[:, None].clone().requires_grad_()
    seen = viewed(manifold, u, p)
    torch.testing.assert_close(seen, torch.zeros_like(seen), rtol=0, atol=VIEW[dtype])
    inputs = [u, p, *manifold.parameters()]
    gradients = torch.autograd.grad((seen * draw(3, 1, 4, dtype=dtype)).sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
