"""Features of real images, made piece by piece."""

import pytest
import torch

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import TensorTable
from geodm_lightning.distillers import real_features
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.ledger import Ledger
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.types import LabelledImages

SPEC = dataset_spec("cifar10")


class Coupled(torch.nn.Module):
    """A network whose features of an image depend on the others of its batch."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def embed(self, images):
        return self.norm(images).amax((2, 3))

    def reset_parameters(self, generator):
        self.norm.reset_parameters()


def convnet(generator):
    shape = {"num_classes": 10, "channels": 3, "resolution": 32}
    return build_network("convnet_d3", **shape, width=8, generator=generator)


def source(device, build=convnet):
    """Return the features of ten classes of random pixels, of which a CPU gathers one at a time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (700, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(10).repeat_interleave(70)
    table = TensorTable(LabelledImages(pixels, labels), SPEC).to(device)
    pool = RandomPool(build, 0).to(device)
    return RealFeatures(table, pool, Augmentation(), real_batch=60, seed=0)


@pytest.mark.parametrize("classes", [slice(0, 10), slice(3, 7)])
@pytest.mark.parametrize("build", [convnet, lambda generator: Coupled()])
def test_features_are_those_of_all_images_at_once(device, classes, build):
    """Batch norm, in train mode, looks at all images: a network that has it gets them whole."""
    real = source(device, build)
    indices, draw = real.draw(5)
    images = real.augmentation(
        normalise(real.table.gather(indices[classes]), SPEC), draw.select(classes)
    )
    with torch.no_grad():
        expected = real.pool.network(5).embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    features = real.fetch(classes, 5, ledger=Ledger(torch.device(device)))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "num_images", "sizes"),
    [
        (1, 100, [50, 50]),
        (1, 640, [64] * 10),
        (4, 64, [16] * 4),
        (4, 100, [25] * 4),
        (4, 640, [54] * 11 + [46]),
        (4, 20, [8, 8, 4]),
    ],
)
def test_every_core_embeds_alike_many_images(monkeypatch, set_threads, threads, num_images, sizes):
    network, seen = convnet(torch.Generator().manual_seed(0)), []
    embed = network.embed
    monkeypatch.setattr(network, "embed", lambda images: seen.append(len(images)) or embed(images))
    images = torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    set_threads(threads)
    features = real_features.embed_in_chunks(network, images)
    assert sorted(seen, reverse=True) == sizes
    with torch.no_grad():
        torch.testing.assert_close(features, embed(images), rtol=1e-4, atol=1e-5)


def test_a_cpu_gathers_few_images_for_each_core(monkeypatch, set_threads):
    set_threads(1)
    real, sizes = source("cpu"), []
    gather = real.table.gather
    monkeypatch.setattr(
        real.table, "gather", lambda indices: sizes.append(indices.numel()) or gather(indices)
    )
    real.fetch(slice(0, 10), 0, ledger=Ledger(torch.device("cpu")))
    assert sizes == [60] * 10
    monkeypatch.setattr(real_features, "CPU_PIECE", 4 * 60 * 3 * 32 * 32)
    sizes.clear()
    real.fetch(slice(0, 10), 1, ledger=Ledger(torch.device("cpu")))
    assert sizes == [240, 240, 120]
    set_threads(2)
    sizes.clear()
    real.fetch(slice(0, 10), 2, ledger=Ledger(torch.device("cpu")))
    assert sizes == [480, 120]
