"""Labelled training batches, augmented, as one stream over all epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from geodm_lightning.data.augment import Augmentation, CutMix, joined
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.randomness import keyed_generator

Batch: TypeAlias = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, float]
Fetch: TypeAlias = Callable[[Tensor], Tensor]


def fetch_from_table(table: ImageTable) -> Fetch:
    """Return a function from indices ``(n,)`` to normalised images ``(n, ch, h, w)``."""
    return lambda indices: normalise(table.gather(indices), table.spec)


class LabelledBatches:
    """Batches of all epochs in one iterable, so that no epoch costs a restart of the trainer.

    The order of an epoch and the augmentation of a step are keyed by their number: iterating
    twice gives the same batches.

    Args:
        fetch: Maps indices ``(n,)`` to normalised images ``(n, ch, h, w)``.
        labels: ``(N,)`` class indices of all images.
        batch_size: Images per batch; the last batch of an epoch may be smaller.
        num_steps: Batches in all; epochs follow each other until then.
        key: Seed, then purpose and position of the training this is for.
        augmentation: One operation per batch with parameters per image, None for none.
        cutmix_probability: Chance of a batch to be mixed by CutMix.
    """

    def __init__(
        self,
        fetch: Fetch,
        labels: Tensor,
        *,
        batch_size: int,
        num_steps: int,
        key: tuple[Any, ...],
        augmentation: Augmentation | None = None,
        cutmix_probability: float = 0.0,
    ) -> None:
        self.fetch = fetch
        self.labels = labels
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.key = key
        self.augmentation = augmentation
        self.cutmix = CutMix(cutmix_probability) if cutmix_probability > 0 else None

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Batch]:
        for step, indices in enumerate(self.orders()):
            yield self.batch(indices.to(self.labels.device), step)

    def orders(self) -> Iterator[Tensor]:
        """Yield the indices ``(n,)`` of every batch, on the CPU."""
        step, epoch = 0, 0
        while step < self.num_steps:
            generator = keyed_generator(*self.key, "order", epoch)
            order = torch.randperm(len(self.labels), generator=generator)
            batches = order.split(self.batch_size)[: self.num_steps - step]
            yield from batches
            step, epoch = step + len(batches), epoch + 1

    def batch(self, indices: Tensor, step: int) -> Batch:
        """Return the augmented batch of ``indices`` ``(n,)`` as drawn at ``step``."""
        return joint_batch([self], [indices], step)[0]


def joint_batch(
    batches: Sequence[LabelledBatches], orders: Sequence[Tensor], step: int
) -> list[Batch]:
    """Return a batch of each of several trainings on the same images, fetched and augmented as one.

    Args:
        batches: Batches that differ in their keys alone.
        orders: Indices ``(n,)`` of the images of each, as many for all.
        step: Number of the step.

    Returns:
        What every one of them would give alone.
    """
    first = batches[0]
    indices = torch.cat(list(orders))
    images, labels = first.fetch(indices), first.labels[indices]
    generators = [keyed_generator(*own.key, "augment", step) for own in batches]
    sizes = [len(order) for order in orders]
    if first.augmentation is not None:
        draws = [
            first.augmentation.draw(size, generator=generator, shared_op=True)
            for size, generator in zip(sizes, generators, strict=True)
        ]
        images = first.augmentation(images.unsqueeze(1), joined(draws)).squeeze(1)
    parts = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    if first.cutmix is None:
        return list(parts)
    return [
        first.cutmix(own, classes, generator=generator)
        for (own, classes), generator in zip(parts, generators, strict=True)
    ]
