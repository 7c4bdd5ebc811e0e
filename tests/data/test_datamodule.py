"""A data set by name: tables, loaders and refusals."""

import math
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from geodm_lightning.data.datamodule import RealDataModule, TableLoader, held_out
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import FolderTable
from geodm_lightning.networks.classifier import Classifier
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import small_network


@pytest.fixture(scope="module")
def digits() -> RealDataModule:
    data = RealDataModule("digits", batch_size=100)
    data.setup()
    return data


def test_setup_twice_keeps_the_tables(digits):
    train = digits.train
    digits.setup("fit")
    assert digits.train is train


def test_loader_visits_every_image_once_per_epoch(digits):
    loader = digits.train_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 15
    assert [len(labels) for _, labels in batches] == [100] * 14 + [37]
    counts = torch.bincount(torch.cat([labels for _, labels in batches]))
    assert torch.equal(counts, digits.train.class_counts)


def test_order_is_keyed_by_the_epoch(digits):
    loader, twin = digits.train_dataloader(), digits.train_dataloader()
    first, second = (next(iter(loader))[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, next(iter(twin))[0])
    assert torch.equal(second, next(iter(twin))[0])


def test_test_loader_keeps_the_order_and_normalises(digits):
    images, labels = next(iter(digits.test_dataloader()))
    expected = normalise(digits.test.gather(torch.arange(100)), digits.spec)
    assert torch.equal(images, expected)
    assert torch.equal(labels, digits.test.labels[:100])


def test_image_folder_takes_classes_and_resolution_from_the_user(tmp_path):
    for split in ("train", "val"):
        for value, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            pixels = np.full((20, 30, 3), 100 * value, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "0.JPEG")
    data = RealDataModule("image_folder", root=tmp_path, resolution=16)
    data.prepare_data()
    data.setup()
    assert isinstance(data.train, FolderTable)
    assert (data.spec.num_classes, data.spec.class_names) == (2, ("cat", "dog"))
    assert data.train.spec is data.spec
    images = data.train.gather(torch.tensor([[0], [1]]))
    assert images.shape == (2, 1, 3, 16, 16)
    torch.testing.assert_close(images[1], torch.full_like(images[1], 100 / 255), atol=0.01, rtol=0)


def test_lightning_sees_a_new_order_every_epoch(digits):
    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.firsts: list[list[int]] = []

        def training_step(self, batch, batch_idx):
            if batch_idx == 0:
                self.firsts.append(batch[1].tolist())
            return self.weight

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    recorder = Recorder()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=2, limit_train_batches=2, accelerator="cpu", enable_model_summary=False, **quiet
    )
    trainer.fit(recorder, digits.train_dataloader())
    assert recorder.firsts[0] != recorder.firsts[1]


def test_lightning_tests_a_classifier_on_the_module(digits):
    network = small_network()
    classifier = Classifier(network, optimizer=torch.optim.SGD)
    (scores,) = Site(torch.device("cpu")).trainer().test(classifier, digits, verbose=False)
    indices = torch.arange(len(digits.test))
    images = normalise(digits.test.gather(indices), digits.spec)
    expected = (network(images).argmax(1) == digits.test.labels).float().mean()
    assert scores["accuracy"] == pytest.approx(expected.item())


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_held_out_images_are_disjoint_from_training_and_complete(digits, share):
    data = RealDataModule("digits", validation=share)
    data.setup()
    assert data.tested_on == "validation"
    assert data.provenance == {"tested_on": "validation"}
    expected = [math.floor(share * count + 0.5) for count in digits.train.class_counts.tolist()]
    assert data.test.class_counts.tolist() == expected
    whole = torch.cat([pixels_of(data.train), pixels_of(data.test)])
    labels = torch.cat([data.train.labels, data.test.labels])
    assert sorted(rows_of(whole, labels)) == sorted(
        rows_of(pixels_of(digits.train), digits.train.labels)
    )


def pixels_of(table):
    return table.gather(torch.arange(len(table)))


def rows_of(images, labels):
    return [
        (int(label), image.numpy().tobytes()) for image, label in zip(images, labels, strict=True)
    ]


def test_what_is_held_out_depends_on_the_data_set_alone(digits):
    marks = held_out(digits.train, share=0.2)
    assert torch.equal(marks, held_out(digits.train, share=0.2))
    assert bool(held_out(digits.train, share=0.5)[marks].all())  # a larger share holds out more
    first, last = marks.nonzero().flatten()[[0, -1]].tolist()
    assert first < len(marks) / 10 < 9 * len(marks) / 10 < last
    renamed = digits.train.head(1000)
    renamed.spec = digits.spec._replace(name="other")
    assert not torch.equal(marks, held_out(renamed, share=0.2))
    seeded = RealDataModule("digits", validation=0.2, seed=7)
    seeded.setup()
    assert torch.equal(pixels_of(seeded.test), digits.train.gather(marks.nonzero().flatten()))


def test_held_out_images_are_tested_on_and_leave_the_table_they_came_from(digits):
    before = len(digits.train)
    part = digits.train.select(torch.tensor([3, 200]))
    assert (len(part), len(digits.train)) == (2, before)
    assert torch.equal(part.gather(torch.arange(2)), digits.train.gather(torch.tensor([3, 200])))
    assert torch.equal(part.labels, digits.train.labels[[3, 200]])
    assert digits.tested_on == "test"
    assert digits.provenance == {}


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match=r"data.validation is the share .*at least 0 and below 1"):
        RealDataModule("digits", validation=share)


def test_a_class_with_nothing_left_is_named(digits):
    with pytest.raises(InputError, match=r"leaves nothing to train on of class '0' of digits"):
        held_out(digits.train.head(1), share=0.3)
    one = digits.train.head(3)
    assert held_out(one, share=0.01).sum() == 10  # at least one of every class
    with pytest.raises(InputError, match="leaves nothing"):
        held_out(one, share=0.9)


def test_bad_arguments_are_refused(digits, tmp_path):
    with pytest.raises(InputError, match="unknown data set 'imagnet'"):
        RealDataModule("imagnet")
    with pytest.raises(InputError, match="digits has 8 px images"):
        RealDataModule("digits", resolution=16)
    with pytest.raises(InputError, match="resolution must be positive, got -1"):
        RealDataModule("image_folder", resolution=-1)
    with pytest.raises(InputError, match="batch_size must be positive, got 0"):
        TableLoader(digits.train, batch_size=0)
    with pytest.raises(InputError, match=r"cifar10: not found in .*; set data\.root=PATH"):
        RealDataModule("cifar10", root=Path(tmp_path)).setup()
