"""Gromov's constant: brute force, trees, cycles, grids, the bound of a hyperbolic space."""

import itertools
import math

import pytest
import torch

from geodm_lightning.diagnosis.hyperbolicity import (
    curvature_from_hyperbolicity,
    gromov_hyperbolicity,
    relative_hyperbolicity,
)
from geodm_lightning.types import InputError


def brute_force(distances):
    """Half of the difference of the two largest pair sums, over all quadruples."""
    d, largest = distances.tolist(), 0.0
    for x, y, z, w in itertools.combinations(range(len(d)), 4):
        sums = sorted((d[x][y] + d[z][w], d[x][z] + d[y][w], d[x][w] + d[y][z]))
        largest = max(largest, (sums[2] - sums[1]) / 2)
    return largest


def cycle(length):
    steps = torch.arange(length)
    apart = (steps[:, None] - steps).abs()
    return torch.minimum(apart, length - apart).double()


def random_tree(rng, num_points, device):
    """Path lengths in a tree grown by joining each point to an earlier one."""
    distances = torch.zeros(num_points, num_points, dtype=torch.float64, device=device)
    for point in range(1, num_points):
        parent = torch.randint(point, (), generator=rng, device=device)
        length = torch.rand((), generator=rng, device=device, dtype=torch.float64) + 0.1
        row = distances[parent, :point] + length
        distances[point, :point] = distances[:point, point] = row
    return distances


@pytest.mark.parametrize("num_points", [4, 5, 9])
def test_equals_brute_force(device, rng, dtype, num_points):
    points = torch.randn(3, 2, num_points, 3, generator=rng, device=device, dtype=dtype)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    expected = [[brute_force(one) for one in row] for row in distances]
    expected = torch.tensor(expected, device=device, dtype=dtype)
    torch.testing.assert_close(gromov_hyperbolicity(distances), expected, rtol=1e-5, atol=1e-6)


def test_tree_has_none(device, rng):
    distances = random_tree(rng, 40, device)
    assert gromov_hyperbolicity(distances).item() == pytest.approx(0, abs=1e-12)
    assert relative_hyperbolicity(distances).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("length", "expected"), [(4, 1.0), (5, 0.5), (6, 1.0), (8, 2.0), (12, 3.0)]
)
def test_cycle_has_a_quarter_of_its_length(length, expected):
    assert gromov_hyperbolicity(cycle(length)).item() == expected


@pytest.mark.parametrize("side", [2, 4, 6])
def test_grid_has_its_side(side):
    axis = torch.arange(float(side))
    points = torch.cartesian_prod(axis, axis)
    assert gromov_hyperbolicity(torch.cdist(points, points, p=1)).item() == side - 1


@pytest.mark.parametrize("magnitude", [0.5, 1.0, 4.0])
def test_hyperbolic_space_bounds_it_and_nearly_attains_the_bound(draw, build, magnitude):
    u = draw(80, 2, radius=10 / magnitude**0.5, dtype=torch.float64)
    delta = gromov_hyperbolicity(build("hyperbolic", magnitude).double().cdist(u, u)).item()
    bound = math.log(2) / magnitude**0.5
    assert 0.8 * bound < delta <= bound


def test_one_base_point_gives_at_least_half(rng, device):
    points = torch.randn(12, 3, generator=rng, device=device, dtype=torch.float64)
    distances = torch.cdist(points, points)
    exact = gromov_hyperbolicity(distances)
    found = [
        gromov_hyperbolicity(distances, base_points=torch.tensor([base])) for base in range(12)
    ]
    assert all(exact / 2 <= value <= exact * (1 + 1e-12) for value in found)
    torch.testing.assert_close(torch.stack(found).amax(), exact)


def test_order_of_the_points_does_not_matter(rng, device):
    points = torch.randn(15, 3, generator=rng, device=device, dtype=torch.float64)
    distances = torch.cdist(points, points)
    order = torch.randperm(15, generator=rng, device=device)
    shuffled = gromov_hyperbolicity(distances[order][:, order])
    torch.testing.assert_close(shuffled, gromov_hyperbolicity(distances))


def test_relative_value_is_scale_free_and_at_most_one(rng, device):
    points = torch.randn(20, 2, generator=rng, device=device, dtype=torch.float64)
    distances = torch.cdist(points, points)
    value = relative_hyperbolicity(distances)
    torch.testing.assert_close(relative_hyperbolicity(1e3 * distances), value)
    assert 0 < value <= 1
    assert relative_hyperbolicity(cycle(4)).item() == 1


def test_coinciding_points_have_none():
    assert relative_hyperbolicity(torch.zeros(5, 5)).item() == 0


def test_curvature_is_one_at_the_value_of_the_ball():
    relative = torch.tensor([0.144, 0.288, 0.0])
    expected = torch.tensor([1.0, 0.25, math.inf])
    torch.testing.assert_close(curvature_from_hyperbolicity(relative), expected)


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (torch.zeros(3, 4), "must be"),
        (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "symmetric"),
        (torch.ones(3, 3), "zero on the diagonal"),
        (torch.tensor([[0.0, math.inf], [math.inf, 0.0]]), "finite and non-negative"),
        (torch.tensor([[0.0, -1.0], [-1.0, 0.0]]), "finite and non-negative"),
    ],
)
def test_refuses_what_is_no_distance(distances, message):
    with pytest.raises(InputError, match=message):
        gromov_hyperbolicity(distances)


@pytest.mark.parametrize("base_points", [[], [5], [-1]])
def test_refuses_base_points_that_are_none(base_points):
    with pytest.raises(InputError, match="base_points must be indices below 4"):
        gromov_hyperbolicity(cycle(4), base_points=torch.tensor(base_points, dtype=torch.int64))
