"""Small sets and the data set they pretend to be of."""

from collections.abc import Callable

import pytest
import torch

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.types import DatasetSpec

Make = Callable[..., DistilledSet]


@pytest.fixture
def spec() -> DatasetSpec:
    return dataset_spec("cifar10")._replace(resolution=8)


@pytest.fixture
def made(spec: DatasetSpec) -> Make:
    """Return a function that makes a set of random pixels."""

    def make(*, ipc=2, factor=1, eight_bits=False, soft=False, learned=None, of=spec):
        generator = torch.Generator().manual_seed(0)
        shape = (ipc * of.num_classes, of.channels, of.resolution, of.resolution)
        images = torch.rand(shape, generator=generator)
        images[0, :, 0, 0], images[0, :, 0, 1] = 0, 1  # reaches both ends of its range
        if eight_bits:
            images = (images * 255).round().to(torch.uint8)
        manifest = {"method": "made", "label": "Made", "ipc": ipc, "factor": factor}
        manifest["dataset"] = of._asdict()
        if learned is not None:
            manifest["learned"] = {"lr": learned}
        labels = class_major_labels(of.num_classes, ipc)
        logits = torch.randn(len(images), of.num_classes, generator=generator)
        logits[torch.arange(len(labels)), labels] += 9
        return DistilledSet(images, labels, manifest, logits if soft else None)

    return make


@pytest.fixture
def keep(tmp_path):
    """Return a function that saves images and labels as IDC does."""

    def save(images, labels, name="data.pt"):
        torch.save([images, labels], tmp_path / name)
        return tmp_path / name

    return save
