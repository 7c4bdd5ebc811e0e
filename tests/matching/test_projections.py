import math
import warnings

import pytest
import torch
from torch import Tensor

from geodm_lightning.geometry import Hyperbolic, Spherical
from geodm_lightning.matching.projections import (
    cast_shadows,
    draw_directions,
    draw_planes,
    geodesic_coordinates,
    great_circle_coordinates,
    horosphere_coordinates,
    meridian_coordinates,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

ON_HYPERBOLIC = [geodesic_coordinates, horosphere_coordinates]
FAMILIES = [(Hyperbolic, project) for project in ON_HYPERBOLIC]
FAMILIES += [(Spherical, meridian_coordinates)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def draw(rng, device, dtype, *shape) -> Tensor:
    return torch.randn(*shape, generator=rng, device=device, dtype=dtype) / shape[-1] ** 0.5


def positions(factor, project, u: Tensor, directions: Tensor) -> Tensor:
    """Coordinates as lengths; those of a sphere are turns."""
    coordinates = project(factor, cast_shadows(u, directions))
    turn = 2 * math.pi / factor.sqrt_magnitude if isinstance(factor, Spherical) else 1
    return turn * coordinates


@pytest.mark.parametrize("curvature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("kind", [Hyperbolic, Spherical])
def test_coordinate_on_a_geodesic_is_that_of_the_nearest_point(device, rng, kind, curvature):
    factor = kind(curvature).to(device, torch.float64)
    u = draw(rng, device, torch.float64, 6, 4)
    direction = draw_directions(u, 1, generator=generator())
    project = geodesic_coordinates if kind is Hyperbolic else meridian_coordinates
    end = 3.0 if kind is Hyperbolic else (math.pi - 2e-3) / curvature**0.5
    grid = torch.linspace(-end, end, 10_001, device=device, dtype=torch.float64)
    nearest = grid[factor.cdist(u, grid[:, None] * direction).argmin(-1)]
    torch.testing.assert_close(
        positions(factor, project, u, direction)[0], nearest, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("curvature", [0.3, 1.0, 3.0])
def test_horosphere_coordinate_is_the_limit_of_distances(device, rng, curvature):
    factor = Hyperbolic(curvature).to(device, torch.float64)
    u = draw(rng, device, torch.float64, 6, 4)
    direction = draw_directions(u, 1, generator=generator())
    lorentz = geoopt.Lorentz(k=torch.tensor(1 / curvature, device=device, dtype=torch.float64))
    far = 12 / curvature**0.5
    target = factor.expmap0(far * direction).expand(6, -1)
    expected = far - lorentz.dist(factor.expmap0(u), target)
    actual = positions(factor, horosphere_coordinates, u, direction)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
def test_a_point_of_a_slice_keeps_its_place(device, dtype, kind, project):
    factor = kind(0.7).to(device, dtype)
    direction = draw_directions(
        torch.zeros(1, 5, device=device, dtype=dtype), 1, generator=generator()
    )
    steps = torch.tensor([-2.0, -0.5, -1e-4, 0.0, 1e-4, 0.5, 2.0], device=device, dtype=dtype)
    actual = positions(factor, project, steps[:, None] * direction, direction)[0]
    torch.testing.assert_close(actual, steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("project", ON_HYPERBOLIC)
def test_hyperbolic_projections_never_lengthen(device, rng, project):
    factor = Hyperbolic(2.0).to(device, torch.float64)
    u = 3 * draw(rng, device, torch.float64, 20, 3)
    places = positions(factor, project, u, draw_directions(u, 8, generator=generator()))
    apart = (places[:, :, None] - places[:, None, :]).abs()
    assert (apart <= factor.cdist(u, u) + 1e-6).all()


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
def test_flat_limit_is_the_component_along_the_direction(device, rng, kind, project):
    u = draw(rng, device, torch.float64, 2, 6, 4)
    directions = draw_directions(u, 8, generator=generator())
    for curvature in (1e-2, 1e-6, 1e-10):
        factor = kind(curvature, curvature_range=(1e-12, 1.0)).to(device, torch.float64)
        actual = positions(factor, project, u, directions)
        torch.testing.assert_close(actual, directions @ u.mT, rtol=0, atol=3 * curvature**0.5)


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
@pytest.mark.parametrize("radius", [0.0, 1e-6, 1.0, 30.0, 1e3])
def test_float32_agrees_with_float64_with_finite_gradients(device, rng, kind, project, radius):
    u = draw(rng, device, torch.float64, 5, 4)
    directions = draw_directions(u, 6, generator=generator())
    on_slice = [directions[:1], -directions[1:2]]
    u = torch.cat([u, 0 * u[:1], *on_slice]) * radius
    results = []
    for dtype in (torch.float32, torch.float64):
        factor = kind(1.0, learnable=True).to(device, dtype)
        own = u.to(dtype).requires_grad_()
        places = positions(factor, project, own, directions.to(dtype))
        gradients = torch.autograd.grad(places.sum(), [own, factor.log_magnitude])
        assert all(gradient.isfinite().all() for gradient in gradients)
        # Rounding the direction of a far point moves it by as much as it is far.
        stable = slice(None) if radius <= 1 else slice(-len(on_slice))
        results.append((places[:, stable].double(), gradients[0].double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-5)
    if radius <= 1:
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
def test_gradient_at_the_origin_is_the_direction(device, dtype, kind, project):
    factor = kind(0.7).to(device, dtype)
    u = torch.zeros(1, 5, device=device, dtype=dtype, requires_grad=True)
    direction = draw_directions(u, 1, generator=generator())
    (gradient,) = torch.autograd.grad(positions(factor, project, u, direction).sum(), u)
    torch.testing.assert_close(gradient, direction)


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
def test_far_points_of_a_slice_stay_finite(device, dtype, kind, project):
    factor = kind(1.0).to(device, dtype)
    directions = draw_directions(
        torch.zeros(1, 5, device=device, dtype=dtype), 200, generator=generator()
    )
    u = (30 * directions).requires_grad_()
    places = positions(factor, project, u, directions)
    (gradient,) = torch.autograd.grad(places.sum(), u)
    assert places.isfinite().all()
    assert gradient.isfinite().all()


def test_a_point_equally_far_from_a_meridian_is_put_at_the_pole(device, dtype):
    factor = Spherical(1.0).to(device, dtype)
    axes = torch.eye(3, device=device, dtype=dtype)
    u = (math.pi / 2 * axes[:1]).requires_grad_()
    place = positions(factor, meridian_coordinates, u, axes[1:2])
    assert place.item() == 0
    (gradient,) = torch.autograd.grad(place.sum(), u)
    assert (gradient == 0).all()


def test_planes_are_orthonormal_and_directions_unit(device, dtype):
    like = torch.zeros(3, 7, device=device, dtype=dtype)
    planes = draw_planes(like, 20, generator=generator())
    identity = torch.eye(2, device=device, dtype=dtype).expand(20, 2, 2)
    torch.testing.assert_close(planes @ planes.mT, identity)
    directions = draw_directions(like, 5000, generator=generator())
    torch.testing.assert_close(directions.square().sum(-1), torch.ones_like(directions[:, 0]))
    covariance = 7 * directions.mT @ directions / 5000
    torch.testing.assert_close(covariance, torch.eye(7).to(covariance), rtol=0, atol=0.1)


def test_great_circles_turn_with_the_sphere(device, rng):
    factor = Spherical(1.0).to(device, torch.float64)
    u = draw(rng, device, torch.float64, 7, 4)
    planes = draw_planes(u, 5, generator=generator())
    turn, _ = torch.linalg.qr(draw(rng, device, torch.float64, 5, 5))
    turned = factor.logmap0(factor.expmap0(u) @ turn.mT)
    expected = great_circle_coordinates(factor, u, planes)
    actual = great_circle_coordinates(factor, turned, planes @ turn.mT)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
