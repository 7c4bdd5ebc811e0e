import itertools

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.distillers.selection import herding, herding_selection, random_selection
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_settings, small_network


@pytest.fixture(scope="module")
def table():
    return assembly.build_data(compose_settings(*TINY), torch.device("cpu")).train


def test_random_selection_takes_different_images_of_each_class(table):
    indices = random_selection(table, ipc=100, generator=keyed_generator(0, "x"))
    assert indices.shape == (10, 100)
    assert all(len(set(row.tolist())) == 100 for row in indices)
    assert (table.labels[indices] == torch.arange(10)[:, None]).all()
    with pytest.raises(InputError, match="choose a smaller ipc"):
        random_selection(table, ipc=1000, generator=keyed_generator(0, "x"))


def test_first_choice_is_nearest_to_the_mean():
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    nearest = (features - features.mean(0)).norm(dim=1).argmin()
    assert herding(features, num=1).item() == nearest


def test_each_choice_is_the_best_next_one():
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    mean, chosen = features.mean(0), herding(features, num=6).tolist()
    for count, index in itertools.pairwise(range(7)):
        before = chosen[:count]
        gaps = {
            i: (features[[*before, i]].mean(0) - mean).norm().item()
            for i in range(12)
            if i not in before
        }
        assert gaps[chosen[index - 1]] == pytest.approx(min(gaps.values()), rel=1e-5)


def test_herding_takes_every_point_in_the_end():
    features = torch.randn(9, 2, generator=torch.Generator().manual_seed(2))
    assert sorted(herding(features, num=9).tolist()) == list(range(9))


def test_herding_selection_stays_within_the_class(table):
    indices = herding_selection(table, small_network(), ipc=4)
    assert (table.labels[indices] == torch.arange(10)[:, None]).all()
    assert all(len(set(row.tolist())) == 4 for row in indices)
