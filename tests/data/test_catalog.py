"""The catalog knows every data set, and says so when it does not."""

import pytest
import torch

from geodm_lightning.data.catalog import catalog, dataset_spec
from geodm_lightning.data.normalise import denormalise, normalise
from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.types import InputError


@pytest.mark.parametrize("spec", catalog().values(), ids=lambda spec: spec.name)
def test_entries_are_consistent(spec):
    assert len(spec.mean) == len(spec.std) == spec.channels
    assert spec.class_names == () or len(set(spec.class_names)) == spec.num_classes
    assert spec.licence
    assert spec.flip == (spec.name not in {"digits", "mnist", "svhn"})


def test_imagenet_subsets_are_ten_sorted_classes():
    for folders in IMAGENET_SUBSETS.values():
        assert len(folders) == 10
        assert list(folders) == sorted(folders)


def test_cifar100_has_its_own_constants():
    assert dataset_spec("cifar100").mean != dataset_spec("cifar10").mean
    assert dataset_spec("cifar100").class_names[51] == "mushroom"


def test_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(
        InputError, match=r"unknown data set 'cifar'; valid names: digits, .*cifar10"
    ):
        dataset_spec("cifar")


def test_denormalise_undoes_normalise(device, rng):
    spec = dataset_spec("cifar10")
    images = torch.rand(2, 3, 3, 4, 4, generator=rng, device=device)
    torch.testing.assert_close(denormalise(normalise(images, spec), spec), images)
    expected = (images[0, 0, 1] - 0.4822) / 0.1994
    torch.testing.assert_close(normalise(images, spec)[0, 0, 1], expected)
