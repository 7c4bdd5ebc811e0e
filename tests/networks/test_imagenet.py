import pytest

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.networks.imagenet import imagenet_labels
from geodm_lightning.types import InputError

# Labels as the released configurations of diffusion distillation list them.
IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
IMAGEWOOF = [155, 159, 162, 167, 182, 193, 207, 229, 258, 273]


@pytest.mark.parametrize(("name", "labels"), [("imagenette", IMAGENETTE), ("imagewoof", IMAGEWOOF)])
def test_subsets_have_the_labels_of_the_literature(name, labels):
    assert imagenet_labels(list(IMAGENET_SUBSETS[name])) == labels


@pytest.mark.parametrize("name", IMAGENET_SUBSETS)
def test_every_subset_lies_within_imagenet(name):
    labels = imagenet_labels(list(IMAGENET_SUBSETS[name]))
    assert len(set(labels)) == 10
    assert labels == sorted(labels)  # folders are sorted, as ImageNet's are


def test_the_order_asked_for_is_kept():
    assert imagenet_labels(["n02102040", "n01440764"]) == [217, 0]


def test_a_folder_of_other_data_is_refused():
    with pytest.raises(InputError, match="'cats' is no WordNet folder"):
        imagenet_labels(["n01440764", "cats"])
