"""The space of either sign: its three cases, geoopt, and the passage through zero."""

import math
import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

from geodm_lightning.geometry import Stereographic, build_product
from geodm_lightning.geometry import stereographic as laws
from geodm_lightning.geometry.manifold import pairwise
from geodm_lightning.types import InputError

CASES = [("hyperbolic", 2.0), ("hyperbolic", 0.1), ("spherical", 1.5), ("spherical", 0.1)]
CASES += [("euclidean", 0.0)]
KAPPAS = [-2.0, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 1.3]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def stereographic(kappa, device, dtype=torch.float64, *, learnable=False):
    return Stereographic(kappa, learnable=learnable, curvature_range=(0.1, 1e3)).to(device, dtype)


@pytest.mark.parametrize(("name", "magnitude"), CASES)
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.9, 1e3])
def test_equal_to_the_space_of_that_sign(draw, build, device, dtype, name, magnitude, radius):
    other = build(name, magnitude).to(dtype)
    manifold = stereographic(0.0, device, dtype)
    manifold.kappa.copy_(other.curvature)
    u, v = draw(3, 6, 4, radius=radius, dtype=dtype), draw(3, 5, 4, dtype=dtype)
    p = draw(3, 4, radius=0.4, dtype=dtype)
    near = u * (1 + 1e-3)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    if radius == 1e3:  # both held short of where normal coordinates end, by their own roundings
        close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else close
    torch.testing.assert_close(manifold.cdist(u, v), other.cdist(u, v), **close)
    torch.testing.assert_close(manifold.dist(u, near), other.dist(u, near), **close)
    torch.testing.assert_close(manifold.centroid(v), other.centroid(v), **close)
    torch.testing.assert_close(manifold.seen_from(u, p), other.seen_from(u, p), **close)
    if radius < 1e3:
        torch.testing.assert_close(manifold.centroid(u), other.centroid(u), **close)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_geoopt_stereographic(draw, device, kappa):
    manifold = stereographic(kappa, device)
    reference = geoopt.Stereographic(k=torch.tensor(kappa, device=device, dtype=torch.float64))
    u, v = draw(6, 4, radius=1.1, dtype=torch.float64), draw(5, 4, radius=0.7, dtype=torch.float64)
    x, y = manifold.expmap0(u), manifold.expmap0(v)
    close = {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(x, reference.expmap0(u / 2), **close)  # its metric is 4 at 0
    torch.testing.assert_close(manifold.logmap0(x), u, **close)
    torch.testing.assert_close(manifold.cdist(u, v), reference.dist(x[:, None], y[None]), **close)
    middle = manifold.expmap0(manifold.centroid(u))
    torch.testing.assert_close(middle, reference.weighted_midpoint(x), rtol=1e-6, atol=1e-7)
    seen = manifold.expmap0(manifold.seen_from(u, v[0]))
    torch.testing.assert_close(seen, reference.mobius_add(-y[0], x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kappa", [-1.0, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 1.0])
def test_gradients_through_zero_curvature(draw, device, kappa):
    manifold = stereographic(kappa, device, learnable=True)
    u = draw(3, 3, radius=0.7, dtype=torch.float64).requires_grad_()
    v = draw(3, 3, radius=1.1, dtype=torch.float64).requires_grad_()
    p = draw(3, radius=0.4, dtype=torch.float64)
    for function in (
        manifold.dist2,
        lambda u, v: manifold.squared_distance(*pairwise(u, v)[:3]),
        lambda u, v: manifold.centroid(torch.cat([u, v])),
        lambda u, v: manifold.embed(u) + manifold.expmap0(v),
        lambda u, v: manifold.logmap0(u / 2) + v,
        lambda u, v: manifold.seen_from(u, p) + v,
    ):
        inputs = (u, v, manifold.kappa)
        assert torch.autograd.gradcheck(lambda u, v, _, f=function: f(u, v), inputs)


@pytest.mark.parametrize("function", ["dist2", "centroid", "embed", "seen_from"])
def test_slope_in_the_curvature_does_not_jump_at_zero(draw, device, dtype, function):
    u, v = draw(6, 4, dtype=dtype), draw(6, 4, radius=0.6, dtype=dtype)
    slopes = []
    for kappa in (-1e-9, 0.0, 1e-9):
        manifold = stereographic(kappa, device, dtype, learnable=True)
        arguments = {"dist2": (u, v), "seen_from": (u, v[0])}.get(function, (u,))
        total = getattr(manifold, function)(*arguments).square().sum()
        slopes.append(torch.autograd.grad(total, manifold.kappa)[0].item())
    assert slopes[1] != 0
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)
    assert slopes[2] == pytest.approx(slopes[1], rel=1e-5)


@pytest.mark.parametrize("kappa", [-1e-9, 0.0, 1e-9])
def test_flat_limit(draw, device, dtype, kappa):
    manifold = stereographic(kappa, device, dtype)
    u, v = draw(2, 6, 4, dtype=dtype).unbind()
    close = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(manifold.embed(u), u, **close)
    torch.testing.assert_close(manifold.expmap0(u), u / 2, **close)
    torch.testing.assert_close(manifold.dist2(u, v), (u - v).square().sum(-1), **close)


def test_first_order_in_the_curvature(draw, device):
    """Known answer: for points at right angles, d^2 = a^2 + b^2 - k a^2 b^2 / 3 + O(k^2)."""
    manifold = stereographic(0.0, device, learnable=True)
    u = torch.tensor([[0.7, 0.0]], device=device, dtype=torch.float64)
    v = torch.tensor([[0.0, 1.1]], device=device, dtype=torch.float64)
    (slope,) = torch.autograd.grad(manifold.dist2(u, v).sum(), manifold.kappa)
    assert slope.item() == pytest.approx(-((0.7 * 1.1) ** 2) / 3)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("radius", [0.0, 1e-4, 1.0])
def test_gradients_are_finite_where_points_coincide(draw, device, dtype, kappa, radius):
    manifold = stereographic(kappa, device, dtype, learnable=True)
    u = draw(5, 4, radius=radius, dtype=dtype).requires_grad_()
    v = u.detach().clone().requires_grad_()
    assert (manifold.dist(u, v) == 0).all()
    loss = manifold.dist(u, v).sum() + manifold.cdist(u, v).sum() + manifold.centroid(u).sum()
    loss = loss + manifold.embed(u).sum() + manifold.logmap0(manifold.expmap0(u)).sum()
    loss = loss + manifold.seen_from(u, v[0]).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [u, v, manifold.kappa]))


@pytest.mark.parametrize("kappa", [-5.0, -1e-8, 0.0, 1e-30, 1e-8, 5.0])
def test_nothing_overflows(draw, device, kappa):
    manifold = stereographic(kappa, device, torch.float32, learnable=True)
    u = draw(10, 8, radius=1e3, dtype=torch.float32).requires_grad_()
    v = draw(10, 8, radius=1e3, dtype=torch.float32).requires_grad_()
    total = manifold.cdist(u, v).sum() + manifold.dist(u, v).sum() + manifold.embed(u).sum()
    total = total + manifold.centroid(u).sum() + manifold.seen_from(u, v[0]).sum()
    gradients = torch.autograd.grad(total, [u, v, manifold.kappa])
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kappa", [-1.0, 1.0])
def test_antipodes_and_balanced_points_have_finite_gradients(draw, device, dtype, kappa):
    manifold = stereographic(kappa, device, dtype, learnable=True)
    u = draw(5, 4, radius=math.pi / 2, dtype=dtype).requires_grad_()
    total = manifold.dist(u, -u).sum() + manifold.centroid(torch.cat([u, -u])).sum()
    gradients = torch.autograd.grad(total, [u, manifold.kappa])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("z", [-4.0, -1.1e-2, -9e-3, -1.1e-3, -9e-4, 9e-4, 1.1e-3, 9e-3, 0.9])
def test_series_continue_the_functions_they_stand_for(device, z):
    x, tensor = math.sqrt(abs(z)), torch.tensor(z, device=device, dtype=torch.float64)
    sine = math.sin(x) if z > 0 else math.sinh(x)
    arc = math.asin(x) if z > 0 else math.asinh(x)
    assert laws._sine_ratio(tensor).item() == pytest.approx(sine / x, rel=1e-15)
    assert laws._arc(tensor).item() == pytest.approx((arc / x) ** 2, rel=1e-14)
    if z > -1:
        arctan = math.atan(x) if z > 0 else math.atanh(x)
        assert laws._arctan(tensor).item() == pytest.approx(arctan / x, rel=1e-15)


@pytest.mark.parametrize("kappa", [-2.0, 2.0])
def test_radius_penalty_opposes_growth_and_vanishes_when_flat(draw, device, dtype, kappa):
    names = ["euclidean", "stereographic"]
    curved = build_product(names, curvature={"stereographic": kappa}).to(device)
    u = draw(7, 4, radius=0.5, dtype=dtype)
    expected = torch.tensor(0.25, device=device, dtype=dtype)  # (2 * 0.5^2)^2
    torch.testing.assert_close(curved.radius_penalty(u), expected)
    flat = build_product(names, curvature={}).to(device)
    assert flat.learn_curvature
    assert flat.radius_penalty(u) == 0


def test_curvature_starts_at_zero_and_may_be_learned_through_it(draw, device):
    geometry = build_product(["stereographic"], curvature={}, learn_weights=False).to(device)
    assert geometry.state()["curvature/stereographic"] == 0.0
    u, v = draw(6, 4, dtype=torch.float32), draw(6, 4, dtype=torch.float32)
    target = build_product(["hyperbolic"], curvature=1.5).to(device).cost(u, v).detach()
    factor = geometry.factors["stereographic"]
    factor.kappa.data.fill_(1.0)
    for _ in range(40):
        loss = (geometry.cost(u, v) - target).square().mean()
        (slope,) = torch.autograd.grad(loss, factor.kappa)
        factor.kappa.data.sub_(2 * slope)
        geometry.clamp_()
    assert factor.curvature.item() == pytest.approx(-1.5, abs=0.1)


def test_clamp_is_symmetric():
    factor = Stereographic(0.05, learnable=True, curvature_range=(0.1, 2.0))
    for far, bound in ((5.0, 2.0), (-5.0, -2.0), (0.01, 0.01)):
        factor.kappa.data.fill_(far)
        factor.clamp_()
        assert factor.curvature.item() == pytest.approx(bound)


@pytest.mark.parametrize("kappa", [7.0, -7.0, math.nan, math.inf])
def test_refuses_curvature_outside_its_range(kappa):
    with pytest.raises(InputError, match=r"lies outside \[-5.0, 5.0\]"):
        Stereographic(kappa)
