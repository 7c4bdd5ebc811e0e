"""Nearest real images: brute force, blocks, copies at exactly 0, refusals."""

import math

import pytest
import torch

from geodm_lightning.audit import memorisation as module
from geodm_lightning.audit.memorisation import NearestReal, ratio_to_second, relative_distances
from geodm_lightning.types import InputError


@pytest.mark.parametrize("block", [1, 7, 512])
def test_equals_brute_force_whatever_the_blocks(device, rng, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    real = torch.randn(61, 5, generator=rng, device=device)
    queries = torch.randn(17, 5, generator=rng, device=device)
    nearest = NearestReal(queries, num=3)
    for part in torch.randperm(61, generator=rng, device=device).split(20):
        nearest.update(real[part], part)
    distances = (queries.double()[:, None] - real.double()).norm(dim=-1)
    expected = distances.sort(dim=1)
    assert nearest.indices.tolist() == expected.indices[:, :3].tolist()
    torch.testing.assert_close(nearest.distances, expected.values[:, :3])


def test_a_copy_lies_at_exactly_nothing(device, rng):
    real = torch.rand(300, 3 * 32 * 32, generator=rng, device=device)
    nearest = NearestReal(real[::10] / 1, num=2)
    nearest.update(real, torch.arange(300, device=device))
    assert nearest.distances[:, 0].tolist() == [0] * 30
    assert nearest.indices[:, 0].tolist() == list(range(0, 300, 10))
    assert ratio_to_second(nearest.distances).tolist() == [0] * 30
    assert float(nearest.distances[:, 1].min()) > 10


def test_oneself_is_no_neighbour_but_a_duplicate_is(device):
    real = torch.tensor([[0.0], [2.0], [2.0], [7.0]], device=device)
    order = torch.arange(4, device=device)
    nearest = NearestReal(real, num=1, excluded=order)
    nearest.update(real, order)
    assert nearest.distances.flatten().tolist() == [2, 0, 0, 5]
    assert nearest.indices.flatten()[1:3].tolist() == [2, 1]


def test_too_few_points_leave_gaps():
    nearest = NearestReal(torch.zeros(1, 2), num=3, excluded=torch.tensor([4]))
    nearest.update(torch.ones(2, 2), torch.tensor([4, 9]))
    assert nearest.indices.tolist() == [[9, -1, -1]]
    assert nearest.distances[0].tolist() == pytest.approx([2**0.5, math.inf, math.inf])


def test_the_unit_of_the_pixels_does_not_matter(rng, device):
    real = torch.rand(40, 6, generator=rng, device=device, dtype=torch.float64)
    order = torch.arange(40, device=device)
    shares = []
    for scale in (1.0, 255.0):
        among = NearestReal(scale * real, num=2, excluded=order)
        found = NearestReal(scale * (real[:5] + 0.01), num=2)
        for nearest in (among, found):
            nearest.update(scale * real, order)
        shares.append(relative_distances(found.distances, among.distances))
        shares.append(ratio_to_second(found.distances))
    torch.testing.assert_close(shares[0], shares[2])
    torch.testing.assert_close(shares[1], shares[3])
    usual = torch.tensor([[2.0], [4.0], [8.0]])
    assert relative_distances(torch.tensor([[1.0], [6.0]]), usual).tolist() == [0.25, 1.5]


def test_two_copies_are_no_single_source():
    assert ratio_to_second(torch.tensor([[0.0, 0.0], [1.0, 4.0]])).tolist() == [1.0, 0.25]


def test_refusals():
    with pytest.raises(InputError, match="no neighbours"):
        NearestReal(torch.zeros(0, 2), num=1)
    with pytest.raises(InputError, match="no neighbours: 0"):
        NearestReal(torch.zeros(2, 2), num=0)
    with pytest.raises(InputError, match="must be finite"):
        NearestReal(torch.full((1, 1), math.nan), num=1)
    with pytest.raises(InputError, match="two neighbours"):
        ratio_to_second(torch.zeros(2, 1))
    with pytest.raises(InputError, match="remove duplicates"):
        relative_distances(torch.ones(1, 1), torch.zeros(3, 1))
