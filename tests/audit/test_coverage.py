"""Coverage and diversity: closed forms, expectations, a slow reference, invariance, refusals."""

import math

import pytest
import torch

from geodm_lightning.audit import coverage as module
from geodm_lightning.audit.coverage import (
    expected_coverage,
    measure_coverage,
    squared_distances,
    squared_radii,
)
from geodm_lightning.audit.diversity import mean_distance, vendi_score
from geodm_lightning.types import InputError


def ball(cloud, i, k):
    """Distance of a point to its k-th nearest other one."""
    return sorted(math.dist(cloud[i], y) for j, y in enumerate(cloud) if j != i)[k - 1]


def slow(real, points, k):
    """The four numbers, one pair of points at a time."""
    real, points, own = real.tolist(), points.tolist(), min(k, len(points) - 1)
    radii = [ball(real, i, k) for i in range(len(real))]
    own_radii = [ball(points, j, own) for j in range(len(points))]
    held = [[math.dist(x, y) <= r for y in points] for x, r in zip(real, radii, strict=True)]
    reached = [
        any(math.dist(x, y) <= r for y, r in zip(points, own_radii, strict=True)) for x in real
    ]
    return (
        sum(map(any, zip(*held, strict=True))) / len(points),
        sum(reached) / len(real),
        sum(map(sum, held)) / (k * len(points)),
        sum(map(any, held)) / len(real),
    )


@pytest.mark.parametrize(("num", "k"), [(3, 1), (3, 5), (30, 5)])
def test_equals_a_slow_count(device, rng, monkeypatch, num, k):
    monkeypatch.setattr(module, "BLOCK", 7)
    real = torch.randn(40, 3, generator=rng, device=device, dtype=torch.float64)
    points = 0.7 * torch.randn(num, 3, generator=rng, device=device, dtype=torch.float64) + 0.3
    found = measure_coverage(real, points, neighbours=k)
    assert tuple(found) == pytest.approx(slow(real, points, k), abs=1e-12)


def test_a_cloud_covers_itself(device, rng):
    real = torch.randn(50, 4, generator=rng, device=device)
    found = measure_coverage(real, real, neighbours=4)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(5 / 4)  # every point and its four neighbours hold it


def test_a_neighbour_on_the_rim_is_in():
    """The k-th neighbour itself, which rounding must not push out."""
    real = torch.tensor([[0.1], [0.4], [1.3]])
    found = measure_coverage(real, real[1:2], neighbours=1)
    assert found == (1.0, None, 3.0, 1.0)


def test_far_away_is_nowhere(rng, device):
    real = torch.randn(30, 2, generator=rng, device=device)
    found = measure_coverage(real, real[:5] + 100, neighbours=3)
    assert found == (0.0, 0.0, 0.0, 0.0)


def test_real_draws_are_as_expected(rng, device):
    """Density 1 and the closed form of the coverage, whatever the distribution."""
    num_real, num, k, repeats = 60, 12, 3, 300
    draws = torch.randn(repeats, num_real + num, 2, generator=rng, device=device).exp()
    found = [measure_coverage(x[:num_real], x[num_real:], neighbours=k) for x in draws]
    coverages = torch.tensor([one.coverage for one in found])
    densities = torch.tensor([one.density for one in found])
    expected = expected_coverage(num_real, num, neighbours=k)
    for values, mean in ((coverages, expected), (densities, 1.0)):
        error = float(values.std()) / repeats**0.5
        assert abs(float(values.mean()) - mean) < 4 * error


def test_motions_and_order_do_not_matter(rng, device):
    real = torch.randn(30, 3, generator=rng, device=device, dtype=torch.float64)
    points = torch.randn(8, 3, generator=rng, device=device, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, device=device).double()).Q
    order = torch.randperm(30, generator=rng, device=device)
    moved = measure_coverage(5 * real[order] @ turn + 2, 5 * points @ turn + 2, neighbours=4)
    assert tuple(moved) == pytest.approx(tuple(measure_coverage(real, points, neighbours=4)))
    assert vendi_score(points @ turn) == pytest.approx(vendi_score(points))
    assert mean_distance(2 * points @ turn + 1) == pytest.approx(2 * mean_distance(points))


def test_distances_near_a_far_origin(rng, device):
    x = torch.randn(20, 5, generator=rng, device=device) + 1000
    expected = (x.double()[:, None] - x.double()).square().sum(-1)
    torch.testing.assert_close(squared_distances(x, x), expected, rtol=0, atol=1e-8)


def test_duplicates_have_radius_zero():
    points = torch.tensor([[0.0], [0.0], [3.0]])
    assert squared_radii(points, neighbours=1).tolist() == [0, 0, 9]
    assert squared_radii(points, neighbours=2).tolist() == [9, 9, 9]


def test_diversity_of_known_clouds(device):
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], device=device)
    assert mean_distance(corners) == pytest.approx((4 + 2 * 2**0.5) / 6)
    assert mean_distance(corners[:1]) is None
    assert vendi_score(corners[1:2]) == pytest.approx(1)
    groups = torch.eye(3, device=device).repeat_interleave(torch.tensor([2, 4, 2]), dim=0)
    shares = [0.25, 0.5, 0.25]
    entropy = -sum(share * math.log(share) for share in shares)
    assert vendi_score(3 * groups) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize(
    ("real", "points", "k", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(3, 2), 5, "neighbours must be from 1 to 4 among 5"),
        (torch.zeros(5, 2), torch.zeros(3, 2), 0, "neighbours must be from 1"),
        (torch.zeros(5, 2), torch.zeros(3, 3), 1, "clouds must be"),
        (torch.zeros(5, 2), torch.zeros(0, 2), 1, "clouds must be"),
        (torch.zeros(5, 2), torch.full((3, 2), math.nan), 1, "must be finite"),
    ],
)
def test_refuses_clouds_that_do_not_fit(real, points, k, message):
    with pytest.raises(InputError, match=message):
        measure_coverage(real, points, neighbours=k)


@pytest.mark.parametrize(
    "points", [torch.zeros(0, 2), torch.zeros(3), torch.full((2, 2), math.inf)]
)
@pytest.mark.parametrize("measure", [mean_distance, vendi_score])
def test_refuses_what_are_no_points(measure, points):
    with pytest.raises(InputError, match="points must be"):
        measure(points)
