"""A data set by name: tables, loaders and refusals."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from geodm_lightning.data.datamodule import RealDataModule, TableLoader
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
