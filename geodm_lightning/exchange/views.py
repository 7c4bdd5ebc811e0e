"""FKD labels in: one file per batch and epoch, bound to the order of a sampler."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from geodm_lightning.exchange.declaration import FKD_SEED, Imported
from geodm_lightning.exchange.folders import Partial
from geodm_lightning.exchange.safe import load_torch
from geodm_lightning.labels.given import MANIFEST, GivenBatch, GivenViews, Mix
from geodm_lightning.types import InputError

CHANCE = 3.1  # standard deviations above chance that happen once in a thousand
FIELDS = ("crops", "flips", "partners", "share", "box", "logits")  # in the order of the file


def is_view_folder(path: Path) -> bool:
    """Whether ``path`` holds ``epoch_0/batch_0.tar``."""
    return (path / "epoch_0" / "batch_0.tar").is_file()


def find_views(path: Path) -> Path | None:
    """Return the folder of FKD labels in, or beside, a folder of pictures."""
    children = sorted(entry for entry in path.iterdir() if entry.is_dir())
    return next((entry for entry in [path, *children] if is_view_folder(entry)), None)


def import_views(imported: Imported, folder: Path, *, seed: int = FKD_SEED) -> GivenViews:
    """Turn the FKD labels of an imported set into views that can be played back.

    Which image a row is of is nowhere in the files: it follows from the order in which torch's
    ``RandomSampler`` draws images of a folder sorted by class and name, epoch after epoch, from
    one generator. Crops are top, left, height and width in shares of the image; a batch has one
    permutation of partners, one share and one patch (top, left, bottom, right in pixels of the
    view, which is as large as the images).

    Args:
        imported: A set that came with views.
        folder: Folder to make.
        seed: Of the sampler, ``fkd_seed`` in the projects' scripts.

    Returns:
        The views.

    Raises:
        InputError: If the set has none, or files are missing, damaged or do not fit it.
    """
    if imported.views is None or imported.order is None:
        raise InputError("the set came without FKD labels; name their folder by views=FOLDER")
    if (imported.views / MANIFEST).is_file():
        return _copied(imported.views, folder)
    epochs = count_epochs(imported.views)
    resolution = imported.distilled.images.shape[-1]
    first = _load(imported.views, 0, 0)
    mix: Mix = (
        "none" if first["partners"] is None else "mixup" if first["box"] is None else "cutmix"
    )
    source = {"format": "fkd", "path": imported.views.name, "seed": seed}
    given = _epochs(imported.views, imported.order, epochs, seed)
    start = next(given)
    _check_order(start, imported.distilled.labels, seed)
    return GivenViews.write(
        folder,
        itertools.chain([start], given),
        num_images=len(imported.order),
        resolution=resolution,
        mix=mix,
        source=source,
    )


def batches_of(imported: Imported) -> tuple[int, list[int]]:
    """Return how many epochs of views a set came with, and the views in each batch of the first.

    Raises:
        InputError: If it came with none, or a file is missing or damaged.
    """
    if imported.views is None or imported.order is None:
        raise InputError("the set came without FKD labels; name their folder by views=FOLDER")
    if (imported.views / MANIFEST).is_file():
        given = GivenViews(imported.views)
        return given.epochs, [len(batch.indices) for batch in given.batches(0)]
    lengths: list[int] = []
    while sum(lengths) < len(imported.order):
        lengths.append(len(_load(imported.views, 0, len(lengths))["logits"]))
    return count_epochs(imported.views), lengths


def _copied(views: Path, folder: Path) -> GivenViews:
    """Copy the views of a native set."""
    GivenViews(views)
    with Partial(folder) as partial:
        shutil.copytree(views, partial, dirs_exist_ok=True)
    return GivenViews(folder)


def count_epochs(folder: Path) -> int:
    """Return how many epochs, from 0 on, a folder of FKD labels has.

    Raises:
        InputError: If one in between is missing.
    """
    numbers = sorted(
        int(entry.name.removeprefix("epoch_"))
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name.removeprefix("epoch_").isdigit()
    )
    if numbers != list(range(len(numbers))):
        missing = next(n for n in range(len(numbers) + 1) if n not in numbers)
        raise InputError(f"{folder} lacks epoch_{missing}; fetch the labels again")
    return len(numbers)


def _epochs(folder: Path, order: Tensor, epochs: int, seed: int) -> Iterator[list[GivenBatch]]:
    generator = torch.Generator().manual_seed(seed)
    sampler: RandomSampler = RandomSampler(range(len(order)), generator=generator)
    for epoch in range(epochs):
        drawn = order[torch.tensor(list(sampler))]
        batches: list[GivenBatch] = []
        start = 0
        while start < len(drawn):
            batch = _batch(_load(folder, epoch, len(batches)), drawn[start:])
            batches.append(batch)
            start += len(batch.indices)
        surplus = folder / f"epoch_{epoch}" / f"batch_{len(batches)}.tar"
        if surplus.exists():
            raise InputError(
                f"{surplus} is of more views than the set's {len(order)} images; these labels "
                "are of another set"
            )
        yield batches


def _check_order(batches: list[GivenBatch], labels: Tensor, seed: int) -> None:
    """Refuse an order under which labels and classes agree no more than by chance.

    A view's largest logit should be of its image's class, or its partner's. Under a wrong order
    it is so only by chance, as often as such images are in the set: a binomial test.
    """
    agreeing, chances = [], []
    shares = labels.bincount(minlength=batches[0].logits.shape[1]) / len(labels)
    for batch in batches:
        answers, classes = batch.logits.argmax(1), labels[batch.indices]
        agreeing.append((answers == classes) | (answers == classes[batch.partners]))
        mixed = 1 + (batch.partners != torch.arange(len(answers)))
        chances.append(1 - (1 - shares[answers]) ** mixed)
    agrees, chance = torch.cat(agreeing).double(), torch.cat(chances).double()
    excess = (agrees - chance).sum() / (chance * (1 - chance)).sum().sqrt().clamp_min(1e-9)
    if excess < CHANCE:
        raise InputError(
            f"{agrees.mean():.0%} of the FKD labels are of their image's class or its partner's, "
            f"no more than by chance: with seed={seed} they belong to other images; give the seed "
            "of the sampler (fkd_seed) or the labels of this set"
        )


def _load(folder: Path, epoch: int, batch: int) -> dict[str, Any]:
    path = folder / f"epoch_{epoch}" / f"batch_{batch}.tar"
    content = load_torch(path)
    if not isinstance(content, (list, tuple)) or len(content) != len(FIELDS):
        raise InputError(f"{path} is no list of {len(FIELDS)}: {', '.join(FIELDS)}")
    fields = {"path": path, **dict(zip(FIELDS, content, strict=True))}
    for name in ("crops", "flips", "logits"):
        if not isinstance(fields[name], Tensor):
            raise InputError(f"{path} has no tensor of {name}")
    if fields["logits"].ndim != 2 or fields["crops"].shape != (len(fields["logits"]), 4):
        raise InputError(f"{path}: crops or logits are of another shape")
    return fields


def _batch(fields: dict[str, Any], drawn: Tensor) -> GivenBatch:
    """Rows of one file; a batch without partners mixes nothing, one without box blends."""
    logits = fields["logits"]
    size = len(logits)
    if size > len(drawn):
        raise InputError(f"{fields['path']} has {size} views, {len(drawn)} images are left")
    own = torch.arange(size)
    partners, share, box = fields["partners"], fields["share"], fields["box"]
    try:
        patch = torch.tensor([0, 0, 0, 0] if box is None else [int(value) for value in box])
        shares = torch.full((size,), 1.0 if share is None else float(share))
        partners = own if partners is None else partners.long()
        return GivenBatch(
            indices=drawn[:size],
            crops=fields["crops"].double(),
            flips=fields["flips"].bool(),
            partners=partners,
            boxes=patch.expand(size, 4),
            shares=shares,
            logits=logits.half(),
        )
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{fields['path']} holds no FKD labels ({error})") from error
