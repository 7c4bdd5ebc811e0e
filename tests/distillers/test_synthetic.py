import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.data.normalise import normalise
from geodm_lightning.distilled.distilled_set import decode_mosaic
from geodm_lightning.distillers.synthetic import SyntheticImages, initial_images, tile_mosaic
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_settings


@pytest.fixture(scope="module")
def table():
    return assembly.build_data(compose_settings(*TINY), torch.device("cpu")).train


def initial(table, **changes):
    options = {"ipc": 3, "factor": 1, "initialisation": "real", "classes": slice(0, 10), **changes}
    return initial_images(table, generator=keyed_generator(0, "initial"), **options)


def test_real_initialisation_takes_images_of_the_right_class(table):
    images = initial(table)
    pixels = table.gather(torch.arange(len(table)))
    for label in range(10):
        members = pixels[table.labels == label]
        for image in images[label]:
            assert (members == image).flatten(1).all(1).sum() >= 1


def test_a_shard_of_classes_is_a_slice_of_the_whole(table):
    for name in ("real", "noise", "mix"):
        options = {"initialisation": name, "factor": 2}
        whole = initial(table, **options)
        assert torch.equal(initial(table, classes=slice(4, 7), **options), whole[4:7])


def test_noise_has_the_statistics_of_the_data(table):
    images = normalise(initial(table, initialisation="noise", ipc=50), table.spec)
    assert abs(images.mean().item()) < 0.02
    assert abs(images.std().item() - 1) < 0.02


def test_a_mosaic_of_flat_tiles_decodes_to_them():
    flat = torch.rand(2, 8, 1, 1, 1).expand(2, 8, 3, 8, 8)
    mosaic = tile_mosaic(flat, factor=2)
    assert mosaic.shape == (2, 2, 3, 8, 8)
    torch.testing.assert_close(decode_mosaic(mosaic, factor=2), flat.contiguous())


def test_too_few_images_are_named(table):
    with pytest.raises(InputError, match=r"200 images per class .* has 139; choose a smaller ipc"):
        initial(table, ipc=200)


def test_unknown_choices_are_refused_with_the_valid_ones(table):
    with pytest.raises(InputError, match=r"unknown initialisation 'zeros'.*real, mix, noise"):
        initial(table, initialisation="zeros")
    images = torch.zeros(10, 1, 1, 8, 8)
    with pytest.raises(InputError, match=r"unknown pixel space 'zca'.*normalised, unit"):
        SyntheticImages(images, spec=table.spec, space="zca", factor=1)
    with pytest.raises(InputError, match="factor 3 does not divide the 8 pixels"):
        SyntheticImages(images, spec=table.spec, space="unit", factor=3)


@pytest.mark.parametrize("space", ["unit", "normalised"])
def test_both_spaces_show_the_network_the_same(table, space):
    images = initial(table)
    synthetic = SyntheticImages(images, spec=table.spec, space=space, factor=1)
    torch.testing.assert_close(synthetic(slice(0, 10)), normalise(images, table.spec))
    torch.testing.assert_close(synthetic.unit_images(synthetic.pixels), images)
