"""Where a student's soft labels come from: a store, or the teachers themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from geodm_lightning.data.batches import Fetch
from geodm_lightning.data.views import ViewRecipe, draw, render
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.processes import Processes

TEACHERS = "teachers"  # key of a store's identity
Report = Callable[[int, int], None]  # epochs written by this process, of how many


class Labeller(Protocol):
    """Soft labels of views.

    Attributes:
        num_classes: Number of logits ``K``.
    """

    num_classes: int

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return what the teachers say of views.

        Args:
            epoch: Number of the epoch whose views these are.
            indices: ``(n,)`` int64 images the views were made of, on any device.
            images: ``(n, ch, r, r)`` the views, normalised as for the student.

        Returns:
            Mean logits of the teachers ``(n, K)``, float32 on the device of ``images``, without
            gradient.
        """

    def identity(self) -> str:
        """Return what decides the labels of given views: teachers, and loss of the store."""


class StoredLabels:
    """Labels from a store; the views must be those the store was made for.

    Args:
        store: The store, whose identity names its teachers.
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self.num_classes = store.encoding.num_classes

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return stored logits ``(n, K)``; of ``images`` only the device matters."""
        return self.store.logits(epoch, indices).to(images.device, non_blocking=True)

    def identity(self) -> str:
        """Return the teachers' digest, followed by the encoding where it is not the default."""
        encoding = self.store.encoding
        loss = {"fp16": "", "int8": " int8", "topk": f" top{encoding.top_k}"}[encoding.kind]
        return f"{self.store.identity[TEACHERS]}{loss}"


class OnlineLabels:
    """Labels from the teachers themselves, asked at every step.

    Args:
        pool: The teachers, on the device of the students.
        num_classes: Number of logits.
    """

    def __init__(self, pool: TeacherPool, *, num_classes: int) -> None:
        self.pool = pool
        self.num_classes = num_classes

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return the teachers' mean logits ``(n, K)`` on ``images``."""
        return self.pool.logits(images)

    def identity(self) -> str:
        """Return the teachers' digest, as a store in half precision does."""
        return self.pool.digest()


def label_identity(
    pool: TeacherPool, recipe: ViewRecipe, *, seed: int, images: str
) -> dict[str, Any]:
    """Return what decides the labels in a store.

    Args:
        pool: The teachers.
        recipe: How views are drawn.
        seed: Seed of the views.
        images: Digest of the set that is labelled.
    """
    return {"images": images, TEACHERS: pool.digest(), "views": asdict(recipe), "seed": seed}


def relabel(
    store: LabelStore,
    pool: TeacherPool,
    recipe: ViewRecipe,
    *,
    fetch: Fetch,
    seed: int,
    batch_size: int = 256,
    processes: Processes | None = None,
    report: Report | None = None,
) -> int:
    """Let teachers label the views of every epoch that has no labels yet.

    Epochs are dealt out to the processes by their number. The labels of an epoch do not depend
    on batches or processes, but for the rounding of the networks.

    Args:
        store: Where labels are written, one part per epoch.
        pool: The teachers, on the device where ``fetch`` puts images.
        recipe: How views are drawn.
        fetch: Maps indices ``(n,)`` to normalised images ``(n, ch, side, side)``.
        seed: Seed of the views.
        batch_size: Views made at once; decides memory.
        processes: This process's place, None for a single one.
        report: Called after every epoch.

    Returns:
        Epochs this process has written.

    Raises:
        InputError: If the disk has no room, before any work is done.
    """
    processes = processes or Processes()
    store.require_space()
    missing = store.missing_epochs()
    own = [epoch for epoch in missing if epoch % processes.world_size == processes.rank]
    batches = torch.arange(store.num_views).split(batch_size)
    for count, epoch in enumerate(own, start=1):
        logits = []
        for indices in batches:
            views = draw(
                recipe, seed=seed, epoch=epoch, indices=indices, num_images=store.num_views
            )
            logits.append(pool.logits(render(fetch, indices, views, recipe)).cpu())
        store.write(epoch, torch.cat(logits))
        if report is not None:
            report(count, len(own))
    return len(own)
