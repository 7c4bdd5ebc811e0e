"""What soft labels cost to keep: size, error and time of each encoding, and time of the views.

    python benchmarks/label_store.py --output benchmarks/results/label_store_cpu.json

Two sets of logits. "digits": answers of two ConvNets, trained here, to mixed views of the training
images. "1000 classes": drawn, not real (normal noise of standard deviation 2, two classes raised by
12 times their shares, as of views mixed by CutMix), for sizes and times at ImageNet's width. Times
are of one epoch, written whole and read in batches of 100 at random; 10,000 views of 1000 classes
are an epoch of ImageNet-1K at ten images per class.
"""

from __future__ import annotations

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import tell

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.batches import LabelledBatches, fetch_from_table
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.views import ViewRecipe, draw, render
from geodm_lightning.distillers.pretrain import PretrainSettings, train_network
from geodm_lightning.labels.encodings import Kind, error_of
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.labels.teachers import Teacher
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site

NUM_VIEWS, NUM_CLASSES, BATCH = 10_000, 1000, 100
KINDS: dict[str, list[tuple[Kind, int | None]]] = {
    "digits": [("fp16", None), ("int8", None), ("topk", 3)],
    "1000 classes": [
        ("fp16", None),
        ("int8", None),
        ("topk", 10),
        ("topk", 50),
        ("topk", 100),
    ],
}


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock time of a call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def digits_pool(data: RealDataModule) -> TeacherPool:
    """Two ConvNets trained on the digits for a few seconds."""
    fetch = fetch_from_table(data.train)
    teachers = []
    for index in range(2):
        generator = keyed_generator(0, "benchmark", index)
        network = build_network(
            "convnet", num_classes=10, channels=1, resolution=8, width=32, generator=generator
        )
        settings = PretrainSettings(epochs=15)
        batches = LabelledBatches(
            fetch,
            data.train.labels,
            batch_size=settings.batch_size,
            num_steps=settings.num_steps(len(data.train)),
            key=(0, "benchmark", index),
            augmentation=Augmentation("crop_rotate_scale"),
            cutmix_probability=0.5,
        )
        train_network(network, batches, settings=settings, site=Site(torch.device("cpu")))
        teachers.append(Teacher(network, data.spec, name=f"convnet {index}"))
    return TeacherPool(teachers)


def digits_logits() -> tuple[Tensor, dict[str, Any]]:
    """Logits of one epoch of views of the training digits, and how good the teachers are."""
    data = RealDataModule("digits")
    data.setup()
    pool = digits_pool(data)
    indices = torch.arange(len(data.train))
    recipe = ViewRecipe(8, flip=False)
    views = draw(recipe, seed=0, epoch=0, indices=indices, num_images=len(indices))
    images = render(fetch_from_table(data.train), indices, views, recipe)
    test = fetch_from_table(data.test)(torch.arange(len(data.test)))
    answers = pool.logits(test).argmax(1)
    accuracy = (answers == data.test.labels).double().mean().item()
    seconds = median_seconds(lambda: pool.logits(images), 3) / len(images)
    return pool.logits(images), {"test accuracy": accuracy, "teacher seconds per view": seconds}


def drawn_logits() -> Tensor:
    """Logits of 1000 classes that look like those of mixed views."""
    generator = keyed_generator(0, "benchmark", "logits")
    logits = 2 * torch.randn(NUM_VIEWS, NUM_CLASSES, generator=generator)
    classes = torch.randint(NUM_CLASSES, (NUM_VIEWS, 2), generator=generator)
    share = torch.rand(NUM_VIEWS, 1, generator=generator)
    return logits.scatter_add(1, classes, 12 * torch.cat([share, 1 - share], 1))


def measure_kind(
    kind: Kind, top_k: int | None, logits: Tensor, folder: Path, repeats: int
) -> dict[str, Any]:
    """Size, error and times of one encoding."""
    num_views, num_classes = logits.shape
    options: dict[str, Any] = {
        "identity": {},
        "kind": kind,
        "num_views": num_views,
        "num_classes": num_classes,
        "num_epochs": 1,
        "top_k": top_k,
    }
    store = LabelStore.open(folder / f"{kind}-{top_k}-{num_classes}", **options)
    write = median_seconds(lambda: store.write(0, logits), repeats)
    order = torch.randperm(num_views, generator=keyed_generator(0, "benchmark", "order"))

    def first_read() -> None:
        LabelStore.open(store.folder, **options).logits(0, order[:1])

    store.logits(0, order[:1])
    read = median_seconds(lambda: [store.logits(0, rows) for rows in order.split(BATCH)], repeats)
    return {
        "kind": kind,
        "top_k": top_k,
        "bytes per view": store.part(0).stat().st_size / num_views,
        "GB of 300 epochs": store.bytes_estimate(300) / 1e9,
        **error_of(kind, logits, top_k=top_k)._asdict(),
        "write seconds per view": write / num_views,
        "check seconds per epoch": median_seconds(first_read, repeats),
        "read seconds per view": read / num_views,
    }


def measure_views(side: int, resolution: int, channels: int, repeats: int) -> dict[str, Any]:
    """Time to draw and render views with CutMix, hence two crops each."""
    generator = keyed_generator(0, "benchmark", "images")
    images = torch.randn(64, channels, side, side, generator=generator)
    indices, recipe = torch.arange(64), ViewRecipe(resolution)
    options = {"seed": 0, "epoch": 0, "indices": indices, "num_images": 64}
    views = draw(recipe, **options)
    return {
        "side": side,
        "resolution": resolution,
        "draw seconds per view": median_seconds(lambda: draw(recipe, **options), repeats) / 64,
        "render seconds per view": median_seconds(
            lambda: render(lambda chosen: images[chosen], indices, views, recipe), repeats
        )
        / 64,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    digits, teachers = digits_logits()
    logits = {"digits": digits, "1000 classes": drawn_logits()}
    with tempfile.TemporaryDirectory() as folder:
        encodings = {
            name: [
                measure_kind(kind, top_k, logits[name], Path(folder), arguments.repeats)
                for kind, top_k in kinds
            ]
            for name, kinds in KINDS.items()
        }
    result = {
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "digits' teachers": teachers,
        "encodings": encodings,
        "views": [measure_views(*shape, arguments.repeats) for shape in ((8, 8, 1), (256, 224, 3))],
        "provenance": provenance(torch.device("cpu")),
    }
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
