"""Neighbour graphs against scipy; triangles in spaces of known curvature."""

import pytest
import torch
from scipy.sparse.csgraph import shortest_path

from geodm_lightning.diagnosis.geodesics import graph_geodesics, triangle_curvature
from geodm_lightning.types import InputError


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def cloud(rng, *shape, device="cpu", dtype=torch.float64):
    points = torch.randn(*shape, generator=rng, device=device, dtype=dtype)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("num_neighbours", [3, 6, 39])
def test_geodesics_are_shortest_paths_of_the_graph(device, rng, dtype, num_neighbours):
    straight = cloud(rng, 2, 40, 3, device=device, dtype=dtype)
    found = graph_geodesics(straight, num_neighbours=num_neighbours)
    for distances, geodesics in zip(straight.cpu(), found.distances.cpu(), strict=True):
        nearest = distances.argsort(-1)[:, 1 : found.num_neighbours + 1]
        edges = torch.zeros_like(distances).scatter(-1, nearest, distances.gather(-1, nearest))
        expected = torch.from_numpy(shortest_path(edges.double().numpy(), directed=False))
        torch.testing.assert_close(geodesics.double(), expected, rtol=1e-5, atol=1e-6)


def test_neighbours_are_doubled_until_islands_are_joined(rng):
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    points[10:] += 100
    found = graph_geodesics(torch.cdist(points, points), num_neighbours=3)
    assert found.num_neighbours == 12
    assert found.distances.isfinite().all()


def test_all_neighbours_leave_distances_as_they_are(rng, device):
    straight = cloud(rng, 12, 3, device=device)
    found = graph_geodesics(straight, num_neighbours=100)
    torch.testing.assert_close(found.distances, straight)


def test_geodesics_along_a_circle_are_its_arcs():
    angle = torch.arange(100, dtype=torch.float64) * (2 * torch.pi / 100)
    points = torch.stack([angle.cos(), angle.sin()], dim=-1)
    found = graph_geodesics(torch.cdist(points, points), num_neighbours=2).distances
    apart = (angle[:, None] - angle).abs()
    torch.testing.assert_close(found, torch.minimum(apart, 2 * torch.pi - apart), rtol=1e-3, atol=0)


@pytest.fixture
def with_middles(draw, build, device):
    """Distances of random points and of a point inside each geodesic between two of them."""

    def distances(name, magnitude, *, share=0.5, radius=0.6):
        manifold = build(name, magnitude).double()
        u = draw(30, 3, radius=radius, dtype=torch.float64)
        if name == "euclidean":
            middles = torch.lerp(u[0::2], u[1::2], share)
        else:
            x, y = manifold.expmap0(u[0::2]), manifold.expmap0(u[1::2])
            angle = manifold.sqrt_magnitude * manifold.dist(u[0::2], u[1::2])[:, None]
            ahead, behind = manifold.sn(share * angle), manifold.sn((1 - share) * angle)
            middles = manifold.logmap0((behind * x + ahead * y) / manifold.sn(angle))
        return manifold.cdist(torch.cat([u, middles]), torch.cat([u, middles])).detach()

    return distances


SPACES = [("hyperbolic", 0.5), ("hyperbolic", 3.0), ("spherical", 0.5), ("spherical", 3.0)]


@pytest.mark.parametrize(("name", "magnitude"), SPACES)
@pytest.mark.parametrize("share", [0.5, 0.35])
def test_triangles_recover_the_curvature(with_middles, generator, name, magnitude, share):
    found = triangle_curvature(with_middles(name, magnitude, share=share), generator=generator)
    sign = -1 if name == "hyperbolic" else 1
    assert found.curvature.item() == pytest.approx(sign * magnitude, rel=1e-3)
    assert found.deviation.item() * sign > 0
    assert found.negative.item() == pytest.approx(1.0 if sign < 0 else 0.0, abs=0.01)


@pytest.mark.parametrize("share", [0.5, 0.35])
def test_triangles_of_flat_space_have_no_deviation(with_middles, generator, share):
    found = triangle_curvature(with_middles("euclidean", 1.0, share=share), generator=generator)
    assert found.deviation.item() == pytest.approx(0, abs=1e-9)
    assert found.curvature.item() == pytest.approx(0, abs=1e-4)
    assert found.negative.item() < 0.01


def test_deviation_of_a_star_is_that_of_the_paper(generator):
    """Three unit edges from a middle: d(a, m) = 1, every side 2, so xi = (1 + 1 - 4) / 2 = -1."""
    star = torch.full((4, 4), 2.0)
    star[0, :] = star[:, 0] = 1.0
    star.fill_diagonal_(0)
    found = triangle_curvature(star, generator=generator)
    assert found.deviation.item() == pytest.approx(-1)
    assert found.negative.item() == 1
    assert found.curvature.item() < -20  # a tree fits no finite curvature


def test_a_batch_is_its_clouds_one_by_one(with_middles, device):
    clouds = [with_middles(*space) for space in SPACES]
    together = triangle_curvature(torch.stack(clouds), generator=torch.Generator().manual_seed(1))
    for index, alone in enumerate(clouds):
        found = triangle_curvature(alone, generator=torch.Generator().manual_seed(1))
        for whole, part in zip(together, found, strict=True):
            torch.testing.assert_close(whole[index], part)


def test_no_point_inside_a_path_says_nothing(generator):
    simplex = 1 - torch.eye(6)
    assert [value.item() for value in triangle_curvature(simplex, generator=generator)] == [0] * 3


def test_refuses_too_few_points_and_neighbours(generator):
    with pytest.raises(InputError, match="at least 4 points"):
        triangle_curvature(1 - torch.eye(3), generator=generator)
    with pytest.raises(InputError, match="num_neighbours must be at least 1"):
        graph_geodesics(1 - torch.eye(5), num_neighbours=0)
