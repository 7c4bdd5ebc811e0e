"""Our own format through the exchange: it states everything itself."""

import pytest
import torch

from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.native import dataset_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.types import InputError


@pytest.fixture
def folder(tmp_path, made):
    return write_set(tmp_path / "set", made(soft=True, learned=0.1, factor=2), format="native")


def test_everything_comes_back_without_a_warning(folder, made, spec):
    distilled = made(soft=True, learned=0.1, factor=2)
    imported = read_set(folder, spec=spec)
    assert imported.warnings == ()
    assert imported.distilled.digest() == distilled.digest()
    assert torch.equal(imported.distilled.soft_labels, distilled.soft_labels)
    assert imported.distilled.manifest.items() >= {"factor": 2, "ipc": 2}.items()
    assert imported.distilled.manifest["learned"] == {"lr": 0.1}


def test_a_native_set_names_its_data_set(folder, tmp_path):
    assert dataset_of(folder) == "cifar10"
    assert dataset_of(tmp_path) is None
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged distilled set"):
        dataset_of(folder)


def test_a_set_of_another_data_set_is_refused(folder, spec):
    with pytest.raises(InputError, match="was made from cifar10, not svhn; use data=cifar10"):
        read_set(folder, spec=spec._replace(name="svhn"))


def test_classes_in_another_order_are_refused(folder, spec):
    swapped = spec._replace(class_names=spec.class_names[::-1])
    with pytest.raises(InputError, match="are not those of cifar10 here, or in another order"):
        read_set(folder, spec=swapped)


@pytest.mark.parametrize("declared", [{"space": "unit"}, {"factor": 2}, {"order": ("a",)}])
def test_nothing_can_be_declared_of_it(folder, spec, declared):
    name = next(iter(declared))
    with pytest.raises(InputError, match=f"states its own {name}: leave out {name}="):
        read_set(folder, spec=spec, declared=Declaration(**declared))
