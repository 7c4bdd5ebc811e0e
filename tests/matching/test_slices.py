import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from geodm_lightning.geometry import Hyperbolic, Manifold, ProductManifold, Spherical, build_product
from geodm_lightning.matching.projections import (
    draw_directions,
    draw_planes,
    geodesic_coordinates,
)
from geodm_lightning.matching.slices import Slices
from geodm_lightning.types import InputError
from tests.matching.test_projections import FAMILIES, draw, generator, positions

OPTIONS = [("horospheres", "meridians"), ("geodesics", "great_circles")]


def numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def product(device, dtype, *names: str, curvature: float = 1.0, **options) -> ProductManifold:
    options = {"learn_curvature": False, "learn_weights": False, **options}
    return build_product(names, curvature=curvature, **options).to(device, dtype)


def test_lines_agree_with_pot(device, rng):
    u, v = (
        draw(rng, device, torch.float64, 2, 9, 5),
        draw(rng, device, torch.float64, 2, 4, 5) + 0.2,
    )
    flat = product(device, torch.float64, "euclidean")
    (actual,) = Slices(16).costs(flat, u, v, generator=generator())
    directions = draw_directions(u, 16, generator=generator())
    for i in range(2):
        expected = ot.sliced_wasserstein_distance(
            numpy(u[i]), numpy(v[i]), projections=numpy(directions.mT), p=2
        )
        assert actual[i].item() == pytest.approx(5 * expected**2)


@pytest.mark.parametrize(("kind", "project"), FAMILIES)
def test_families_cost_what_pot_finds_on_their_coordinates(device, rng, kind, project):
    u, v = draw(rng, device, torch.float64, 9, 5), draw(rng, device, torch.float64, 4, 5)
    name = kind.__name__.lower()
    space = product(device, torch.float64, name, curvature=1.5)
    family = "geodesics" if project is geodesic_coordinates else "horospheres"
    (actual,) = Slices(16, hyperbolic=family).costs(space, u, v, generator=generator())
    directions = draw_directions(u, 16, generator=generator())
    x, y = (positions(space.factors[name], project, points, directions) for points in (u, v))
    turn = 2 * math.pi / 1.5**0.5
    expected = []
    for a, b in zip(x, y, strict=True):
        gap = (a[:, None] - b[None]).abs()
        gap = torch.minimum(gap, turn - gap) if kind is Spherical else gap
        expected.append(ot.emd2([], [], numpy(gap.square())))
    assert actual.item() == pytest.approx(5 * np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("curvature", [0.5, 1.0, 4.0])
def test_great_circles_agree_with_pot(device, rng, curvature):
    u, v = draw(rng, device, torch.float64, 2, 9, 5), draw(rng, device, torch.float64, 2, 6, 5)
    sphere = product(device, torch.float64, "spherical", curvature=curvature)
    slices = Slices(16, spherical="great_circles")
    (actual,) = slices.costs(sphere, u, v, generator=generator())
    planes = numpy(draw_planes(u, 16, generator=generator())).transpose(0, 2, 1)
    factor = sphere.factors["spherical"]
    for i in range(2):
        points = [numpy(curvature**0.5 * factor.expmap0(x[i])) for x in (u, v)]
        options = {"n_projections": 16, "projections": planes}
        expected = ot.sliced_wasserstein_sphere(*points, **options, p=2)
        expected = (2 * math.pi * expected) ** 2 / curvature
        assert actual[i].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("names", [["euclidean"], ["hyperbolic"], ["spherical"]])
@pytest.mark.parametrize("family", ["horospheres", "geodesics"])
def test_a_small_translation_costs_its_squared_length(device, rng, names, family):
    u = 0.05 * draw(rng, device, torch.float64, 12, 6)
    v = u + 0.05 * draw(rng, device, torch.float64, 1, 6)
    slices = Slices(4096, hyperbolic=family)
    (cost,) = slices.costs(product(device, torch.float64, *names), u, v, generator=generator())
    assert cost.item() == pytest.approx((u - v)[0].square().sum().item(), rel=0.05)


def test_a_sphere_nearly_flat_costs_what_lines_cost(device, rng):
    u, v = draw(rng, device, torch.float64, 9, 5), draw(rng, device, torch.float64, 4, 5)
    options = {"curvature": 1e-8, "curvature_range": (1e-9, 1.0)}
    names = ["euclidean", "hyperbolic", "spherical"]
    geometry = product(device, torch.float64, *names, **options)
    flat, hyperbolic, spherical = Slices(16).costs(geometry, u, v, generator=generator())
    torch.testing.assert_close(hyperbolic, flat, rtol=1e-3, atol=0)
    torch.testing.assert_close(spherical, flat, rtol=1e-3, atol=0)


@pytest.mark.parametrize("families", OPTIONS)
def test_gradient_matches_finite_differences(device, rng, families):
    names = ["euclidean", "hyperbolic", "spherical"]
    geometry = product(device, torch.float64, *names, learn_curvature=True)
    u = draw(rng, device, torch.float64, 2, 4, 3).requires_grad_()
    v = draw(rng, device, torch.float64, 2, 3, 3).requires_grad_()
    slices = Slices(3, hyperbolic=families[0], spherical=families[1])

    def costs(u: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        return torch.stack(slices.costs(geometry, u, v, generator=generator()))

    assert torch.autograd.gradcheck(costs, (u, v, *geometry.parameters()))


@pytest.mark.parametrize("families", OPTIONS)
def test_batched_equals_a_loop_over_classes(device, rng, dtype, families):
    geometry = product(device, dtype, "euclidean", "hyperbolic", "spherical")
    u, v = draw(rng, device, dtype, 3, 12, 6), draw(rng, device, dtype, 3, 5, 6)
    slices = Slices(8, hyperbolic=families[0], spherical=families[1])
    batched = torch.stack(slices.costs(geometry, u, v, generator=generator()))
    for i in range(3):
        single = torch.stack(slices.costs(geometry, u[i], v[i], generator=generator()))
        torch.testing.assert_close(batched[:, i], single, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("families", OPTIONS)
def test_equal_sets_cost_nothing(device, rng, dtype, families):
    geometry = product(device, dtype, "euclidean", "hyperbolic", "spherical")
    u = draw(rng, device, dtype, 2, 6, 4)
    u[:, 0] = 0
    own = u.flip(1).clone().requires_grad_()
    slices = Slices(8, hyperbolic=families[0], spherical=families[1])
    costs = torch.stack(slices.costs(geometry, u, own, generator=generator()))
    torch.testing.assert_close(costs, torch.zeros_like(costs), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(costs.sum(), own)
    assert gradient.isfinite().all()


def test_factors_share_the_slices_of_their_coordinates(device, rng, dtype):
    u, v = draw(rng, device, dtype, 2, 6, 4), draw(rng, device, dtype, 2, 3, 4)
    whole = product(device, dtype, "euclidean", "hyperbolic", "spherical")
    costs = Slices(8).costs(whole, u, v, generator=generator())
    for name, cost in zip(whole.factors, costs, strict=True):
        alone = Slices(8).costs(product(device, dtype, name), u, v, generator=generator())
        torch.testing.assert_close(cost, alone[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slices": 0}, "num_slices must be at least 1, got 0"),
        ({"hyperbolic": "lines"}, "hyperbolic_slices must be one of horospheres, geodesics, got"),
        ({"spherical": "lines"}, "spherical_slices must be one of meridians, great_circles, got"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        Slices(**options)


def test_refuses_a_factor_without_slices():
    other = type("Other", (Manifold,), dict.fromkeys(Manifold.__abstractmethods__))
    geometry = ProductManifold({"euclidean": Hyperbolic(1.0), "other": other()})
    with pytest.raises(InputError, match="knows no slices of the factor 'other'"):
        Slices().check(geometry)
    Slices().check(build_product(["euclidean", "hyperbolic", "spherical"], curvature=1.0))
