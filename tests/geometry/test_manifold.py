import pytest
import torch

from geodm_lightning.geometry import Hyperbolic, Spherical
from geodm_lightning.geometry.manifold import pairwise
from geodm_lightning.types import InputError

ALL = ["euclidean", "hyperbolic", "spherical"]
CURVED = ["hyperbolic", "spherical"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def spread(device, *shape):
    """Radii between 0.1 and 1.3, inside the sphere's reach up to curvature 5."""
    return torch.linspace(0.1, 1.3, shape[-1], device=device, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("magnitude", [0.1, 1.0, 5.0])
def test_logmap0_inverts_expmap0(draw, build, device, dtype, name, magnitude):
    manifold = build(name, magnitude)
    u = draw(2, 6, 4, radius=spread(device, 6), dtype=dtype)
    u[0, 0] = 0.0
    back = manifold.logmap0(manifold.expmap0(u))
    torch.testing.assert_close(back, u, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("magnitude", [0.1, 1.0, 5.0])
def test_ambient_points_lie_on_the_model(draw, build, device, dtype, name, magnitude):
    manifold = build(name, magnitude)
    x = manifold.expmap0(draw(6, 4, radius=spread(device, 6), dtype=dtype))
    square = manifold.sign * x[:, 0].square() + x[:, 1:].square().sum(-1)
    size = manifold.magnitude * x[:, 0].square()  # large squares leave large roundings
    residual = (manifold.magnitude * manifold.sign * square - 1) / size.clamp(min=1)
    assert residual.abs().max() < 1e-5
    assert (x[0, 0] > 0).item()


@pytest.mark.parametrize("name", CURVED)
def test_flat_limit(draw, build, device, dtype, name):
    u = draw(6, 4, radius=spread(device, 6), dtype=dtype)
    v = draw(5, 4, dtype=dtype)
    nearly_flat, flat = build(name, 1e-10), build("euclidean")
    tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 1e-9, "atol": 1e-6}
    torch.testing.assert_close(nearly_flat.cdist(u, v), flat.cdist(u, v), **tolerance)
    torch.testing.assert_close(nearly_flat.centroid(u), flat.centroid(u), **tolerance)
    embedded = nearly_flat.embed(u)[..., -4:]
    torch.testing.assert_close(embedded, u, **tolerance)
    assert nearly_flat.embed(u)[..., :-4].abs().sum() < 1e-3


@pytest.mark.parametrize("magnitude", [0.1, 1.0, 5.0])
def test_negative_curvature_spreads_and_positive_gathers(draw, build, device, dtype, magnitude):
    u = draw(6, 4, radius=spread(device, 6), dtype=dtype)
    v = draw(5, 4, dtype=dtype)
    flat = build("euclidean").cdist(u, v)
    assert (build("hyperbolic", magnitude).cdist(u, v) > flat).all()
    assert (build("spherical", magnitude).cdist(u, v) < flat).all()


@pytest.mark.parametrize("name", ALL)
def test_radius_is_the_distance_from_the_origin(draw, build, dtype, name):
    u = draw(5, 4, radius=0.9, dtype=dtype)
    distance = build(name, 2.0).dist(u, torch.zeros_like(u))
    torch.testing.assert_close(distance, torch.full_like(distance, 0.9))


@pytest.mark.parametrize("name", ALL)
def test_cdist_is_dist_of_every_pair(draw, build, device, dtype, name):
    manifold = build(name, 2.0)
    u = draw(2, 6, 4, radius=spread(device, 6), dtype=dtype)
    v = draw(2, 5, 4, dtype=dtype)
    pairs = torch.stack([manifold.dist(u, v[:, j : j + 1].expand_as(u)) for j in range(5)], dim=-1)
    torch.testing.assert_close(manifold.cdist(u, v), pairs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_metric_axioms(draw, build, device, dtype, name):
    manifold = build(name, 2.0)
    u = draw(8, 3, radius=spread(device, 8), dtype=dtype)
    d = manifold.cdist(u, u)
    torch.testing.assert_close(d, d.mT)
    assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-3).all()
    away = ~torch.eye(8, dtype=torch.bool, device=device)
    assert (d[away] > 0.01).all()
    assert (manifold.dist(u, u) == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_rotations_are_isometries(draw, build, device, rng, dtype, name):
    manifold = build(name, 2.0)
    u, v = draw(6, 4, radius=spread(device, 6), dtype=dtype), draw(5, 4, dtype=dtype)
    q = torch.linalg.qr(torch.randn(4, 4, generator=rng, device=device, dtype=dtype)).Q
    torch.testing.assert_close(manifold.cdist(u @ q, v @ q), manifold.cdist(u, v))
    torch.testing.assert_close(manifold.centroid(u @ q), manifold.centroid(u) @ q)


@pytest.mark.parametrize("name", ALL)
def test_centroid_of_two_points_is_their_midpoint(draw, build, dtype, name):
    manifold = build(name, 1.5)
    pair = torch.stack([draw(7, 4, radius=0.5, dtype=dtype), draw(7, 4, dtype=dtype)], dim=-2)
    middle, (u, v) = manifold.centroid(pair), pair.unbind(-2)
    half = manifold.dist(u, v) / 2
    torch.testing.assert_close(manifold.dist(middle, u), half, rtol=1e-5, atol=0)
    torch.testing.assert_close(manifold.dist(middle, v), half, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_origin_and_single_points_are_their_own_centroid(draw, build, dtype, name):
    manifold = build(name, 1.5)
    u = draw(3, 1, 4, radius=0.8, dtype=dtype)
    u[0] = 0.0
    torch.testing.assert_close(manifold.centroid(u), u[:, 0])


@pytest.mark.parametrize("name", ALL)
def test_gradient_of_squared_distance(draw, build, name):
    manifold = build(name, 1.3, learnable=True).double()
    u = draw(3, 4, radius=0.7, dtype=torch.float64).requires_grad_()
    v = draw(3, 4, radius=1.1, dtype=torch.float64).requires_grad_()
    close = (u.detach() + 1e-2 * v.detach()).requires_grad_()
    curvature = list(manifold.parameters())
    for other in (v, close):
        assert torch.autograd.gradcheck(
            lambda u, v, *_: manifold.dist2(u, v), (u, other, *curvature)
        )
        assert torch.autograd.gradcheck(
            lambda u, v, *_: manifold.squared_distance(*pairwise(u, v)[:3]), (u, other, *curvature)
        )


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2)])
def test_either_set_of_pairs_may_be_the_larger(draw, sizes):
    u, v = (draw(3, size, 4, radius=0.7, dtype=torch.float64).requires_grad_() for size in sizes)
    lengths = u.norm(dim=-1)[..., :, None] * v.norm(dim=-1)[..., None, :]
    expected = lengths - (u[..., :, None, :] * v[..., None, :, :]).sum(-1)
    torch.testing.assert_close(pairwise(u, v).gap, expected)
    torch.testing.assert_close(pairwise(v, u).gap, expected.mT)
    assert torch.autograd.gradcheck(lambda u, v: pairwise(u, v).gap, (u, v))
    assert torch.autograd.gradgradcheck(lambda u, v: pairwise(u, v).gap, (u, v))


@pytest.mark.parametrize("name", ALL)
def test_gradient_of_centroid_and_coordinates(draw, build, name):
    manifold = build(name, 1.3, learnable=True).double()
    u = draw(2, 3, 4, radius=0.7, dtype=torch.float64).requires_grad_()
    curvature = list(manifold.parameters())
    for function in (manifold.centroid, manifold.expmap0, manifold.embed):
        assert torch.autograd.gradcheck(lambda u, *_, f=function: f(u), (u, *curvature))


@pytest.mark.parametrize("name", CURVED)
def test_gradient_of_the_centroid_of_given_points(draw, build, name):
    """Real points have no gradient, which leaves the curvature fewer passes over them."""
    manifold = build(name, 1.3, learnable=True).double()
    u = draw(2, 5, 4, radius=0.7, dtype=torch.float64)
    u[0, 0] = 0
    curvature = list(manifold.parameters())
    along, alone = (
        torch.autograd.grad(manifold.centroid(points).sin().sum(), curvature)
        for points in (u.clone().requires_grad_(), u)
    )
    torch.testing.assert_close(alone, along)
    inputs = (u[:, 1:].clone().requires_grad_(), *curvature)
    assert torch.autograd.gradgradcheck(lambda u, *_: manifold.centroid(u), inputs)


@pytest.mark.parametrize("name", ALL)
def test_gradient_at_the_origin_points_away_from_the_other_point(draw, build, dtype, name):
    manifold = build(name, 1.3)
    v = draw(5, 4, dtype=dtype)
    for law in (
        manifold.dist2,
        lambda u, v: manifold.squared_distance(*pairwise(u, v)[:3]).diagonal(),
    ):
        u = torch.zeros_like(v).requires_grad_()
        (gradient,) = torch.autograd.grad(law(u, v).sum(), u)
        torch.testing.assert_close(gradient, -2 * v)  # first variation of d^2


@pytest.mark.parametrize("name", CURVED)
def test_gradient_of_the_centroid_at_the_origin(draw, build, device, name):
    manifold = build(name, 1.3)
    others = draw(3, 4, radius=0.6, dtype=torch.float64)
    step = 1e-6 * torch.eye(4, device=device, dtype=torch.float64)

    def centroid(u):
        return manifold.centroid(torch.cat([u[None], others]))

    zero = torch.zeros(4, device=device, dtype=torch.float64)
    numerical = torch.stack([(centroid(s) - centroid(-s)) / 2e-6 for s in step], dim=-1)
    analytical = torch.autograd.functional.jacobian(centroid, zero)
    torch.testing.assert_close(analytical, numerical, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("radius", [0.0, 1e-4, 1.0])
def test_gradients_are_finite_where_points_coincide(draw, build, dtype, name, radius):
    manifold = build(name, 1.3, learnable=True)
    parameters = list(manifold.parameters())
    u = draw(5, 4, radius=radius, dtype=dtype).requires_grad_()
    v = u.detach().clone().requires_grad_()
    zero = torch.autograd.grad(manifold.dist(u, v).sum(), [u, v, *parameters])
    assert all((gradient == 0).all() for gradient in zero)
    loss = manifold.cdist(u, v).sum() + manifold.centroid(u).sum() + manifold.embed(u).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [u, v, *parameters]))


def test_curvature_is_signed():
    assert Hyperbolic(2.0).curvature.item() == pytest.approx(-2.0)
    assert Spherical(2.0).curvature.item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", [Hyperbolic, Spherical])
def test_clamp_puts_the_curvature_back(kind):
    manifold = kind(1.0, learnable=True, curvature_range=(0.5, 2.0))
    for far, bound in ((5.0, 2.0), (-5.0, 0.5)):
        manifold.log_magnitude.data.fill_(far)
        manifold.clamp_()
        assert manifold.curvature.abs().item() == pytest.approx(bound)


def test_fixed_curvature_is_state_but_no_parameter():
    manifold = Hyperbolic(2.0)
    assert not list(manifold.parameters())
    other = Hyperbolic(1.0)
    other.load_state_dict(manifold.state_dict())
    assert other.curvature == manifold.curvature


@pytest.mark.parametrize("magnitude", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_what_is_no_magnitude(magnitude):
    with pytest.raises(InputError, match=f"positive magnitude, got {magnitude}"):
        Hyperbolic(magnitude)


def test_refuses_curvature_outside_its_range():
    with pytest.raises(InputError, match=r"curvature 7.0 lies outside .*\(0.1, 5.0\)"):
        Spherical(7.0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, float("nan")), (1.0,)])
def test_refuses_what_is_no_range(bounds):
    with pytest.raises(InputError, match="0 < low <= high"):
        Hyperbolic(1.0, curvature_range=bounds)
