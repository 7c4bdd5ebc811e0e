"""A candidate to train on, real images to test on."""

from __future__ import annotations

from collections.abc import Iterator

import lightning
import torch
from torch import Tensor

from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.batches import Fetch, LabelledBatches, fetch_from_table
from geodm_lightning.data.table import ImageTable
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol

TEST_BATCH = 512  # images; decides memory only
TRAINING_SAMPLE = 10_000  # most training images whose accuracy is told; evenly spaced


class PlainBatches:
    """Batches ``(normalised images (n, ch, h, w), labels (n,))`` in order, not augmented.

    Args:
        fetch: Maps indices ``(n,)`` to normalised images.
        labels: ``(N,)`` class indices.
        most: Most images to show, evenly spaced over all; None shows every one.
    """

    def __init__(self, fetch: Fetch, labels: Tensor, *, most: int | None = None) -> None:
        self._fetch = fetch
        self._labels = labels
        every = 1 if most is None else -(-len(labels) // most)
        self._indices = torch.arange(0, len(labels), every, device=labels.device)

    def __len__(self) -> int:
        return -(-len(self._indices) // TEST_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self._indices.split(TEST_BATCH):
            yield self._fetch(chosen), self._labels[chosen]


class EvaluationDataModule(lightning.LightningDataModule):
    """Batches of one student: the candidate augmented for training, real images for the test.

    All epochs are one stream, so a thousand epochs of one batch cost no thousand restarts of
    the trainer. Order and augmentation are keyed by seed and index, not by the candidate:
    students of the same seed and index differ in the images alone.

    Args:
        candidate: Images to train on.
        test: Real images to test on.
        protocol: Batch size, schedule and augmentation.
        seed: Seed of the run.
        index: Position of the student.
    """

    def __init__(
        self, candidate: Candidate, *, test: ImageTable, protocol: Protocol, seed: int, index: int
    ) -> None:
        super().__init__()
        self._candidate = candidate
        self._test = test
        self._batches = LabelledBatches(
            candidate.fetch,
            candidate.labels,
            batch_size=protocol.batch_size,
            num_steps=num_training_steps(candidate, protocol),
            key=(seed, "student", index),
            augmentation=augmentation_for(
                test.spec, strategy=protocol.augmentation, mode=protocol.augmentation_mode
            ),
            cutmix_probability=protocol.cutmix_probability,
        )

    def train_dataloader(self) -> LabelledBatches:
        """Return the augmented batches of all epochs."""
        return self._batches

    def test_dataloader(self) -> list[PlainBatches]:
        """Return the real test images, then the training images as they are."""
        return [
            PlainBatches(fetch_from_table(self._test), self._test.labels.to(self._test.device)),
            PlainBatches(self._candidate.fetch, self._candidate.labels, most=TRAINING_SAMPLE),
        ]


def num_training_steps(candidate: Candidate, protocol: Protocol) -> int:
    """Return the optimiser steps of a student: the protocol's epochs, or the whole-set budget."""
    if candidate.ipc is None:
        return protocol.whole_steps
    return protocol.num_steps(len(candidate.labels))
