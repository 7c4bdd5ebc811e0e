"""FKD labels out: from views played back, or from the store of a run where its views allow it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from geodm_lightning.data.views import ViewRecipe, draw
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import FKD_SEED
from geodm_lightning.exchange.tensor_files import save_torch
from geodm_lightning.labels.given import GivenBatch, GivenViews
from geodm_lightning.labels.store import MANIFEST, LabelStore
from geodm_lightning.types import InputError

BATCH_SIZE = 100  # of labels from a store; a loader must use the same


def export_views(
    views: Path, folder: Path, distilled: DistilledSet, *, seed: int = FKD_SEED
) -> Path:
    """Write ``epoch_E/batch_B.tar`` files for the loader of SRe2L and its heirs.

    Args:
        views: Folder of :class:`~geodm_lightning.labels.given.GivenViews`, or of a label store.
        folder: Folder to fill.
        distilled: The set they are of.
        seed: Of the loader's sampler, whose order the batches follow.

    Returns:
        ``folder``.

    Raises:
        InputError: If there are no such views, they are of another set or order, or FKD cannot
            express them: it has one permutation, one share and one patch per batch, and partners
            within it.
    """
    num_images = len(distilled.labels) * int(distilled.manifest.get("factor", 1)) ** 2
    generator = torch.Generator().manual_seed(seed)
    sampler: RandomSampler = RandomSampler(range(num_images), generator=generator)
    manifest = _manifest(views)
    if "mix" in manifest:
        given = GivenViews(views)
        _check_number(views, given.num_images, num_images)
        epochs, mix = _given(given, sampler, seed), given.mix
    else:
        store, recipe = _open_store(views, manifest)
        _check_number(views, store.num_views, num_images)
        if store.identity.get("images") != distilled.digest():
            raise InputError(f"the labels in {views} were made for another set; see their manifest")
        epochs, mix = _stored(store, recipe, sampler), "none"
    for epoch, batches in enumerate(epochs):
        for position, batch in enumerate(batches):
            path = folder / f"epoch_{epoch}" / f"batch_{position}.tar"
            save_torch(path, _fields(batch, mix))
    return folder


def _check_number(views: Path, found: int, num_images: int) -> None:
    if found != num_images:
        raise InputError(f"{views} has views of {found} images, the set has {num_images}")


def _given(given: GivenViews, sampler: RandomSampler, seed: int) -> Iterator[list[GivenBatch]]:
    for epoch in range(given.epochs):
        batches = list(given.batches(epoch))
        if torch.cat([batch.indices for batch in batches]).tolist() != list(sampler):
            raise InputError(
                f"the views in {given.folder} are not in the order of a sampler with seed={seed}; "
                "give the seed they were made with"
            )
        yield batches


def _fields(batch: GivenBatch, mix: str) -> list[Any]:
    """The list of a file: crops, flips, partners, share, box, logits."""
    if mix == "none":
        return [batch.crops.float(), batch.flips, None, None, None, batch.logits]
    share, box = batch.shares[0], batch.boxes[0]
    if not (batch.shares == share).all() or not (batch.boxes == box).all():
        raise InputError("FKD has one share and one patch per batch, these views differ")
    patch = box.tolist() if mix == "cutmix" else None
    return [batch.crops.float(), batch.flips, batch.partners, float(share), patch, batch.logits]


def _stored(
    store: LabelStore, recipe: ViewRecipe, sampler: RandomSampler
) -> Iterator[list[GivenBatch]]:
    seed = store.identity["seed"]
    for epoch in range(store.num_epochs):
        batches = []
        for indices in torch.tensor(list(sampler)).split(BATCH_SIZE):
            views = draw(
                recipe, seed=seed, epoch=epoch, indices=indices, num_images=store.num_views
            )
            nothing = torch.zeros(len(indices), 4, dtype=torch.int64)
            logits: Tensor = store.logits(epoch, indices).half()
            crops, own = views.crops, torch.arange(len(indices))
            batches.append(
                GivenBatch(indices, crops.boxes, crops.mirrored, own, nothing, views.shares, logits)
            )
        yield batches


def _open_store(folder: Path, manifest: dict[str, Any]) -> tuple[LabelStore, ViewRecipe]:
    try:
        identity = manifest["identity"]
        recipe = ViewRecipe(**identity["views"])
        store = LabelStore.open(
            folder,
            identity=identity,
            kind=manifest["kind"],
            num_views=manifest["num_views"],
            num_classes=manifest["num_classes"],
            num_epochs=len(list(folder.glob("epoch_*.safetensors"))),
            top_k=manifest["top_k"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is of no label store ({error})") from error
    if recipe.cutmix_probability > 0:
        raise InputError(
            f"the views of {folder} are mixed image by image with partners from the whole set, "
            "which FKD cannot express; relabel with cutmix_probability=0"
        )
    return store, recipe


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{folder} holds neither given views nor a label store ({error}); name one by views="
        ) from error
    if not isinstance(manifest, dict):
        raise InputError(f"{folder / MANIFEST} holds no JSON object")
    return manifest
