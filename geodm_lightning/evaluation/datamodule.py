"""A candidate to train on, real images to test on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import lightning
import torch
from torch import Tensor

from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.batches import Fetch, LabelledBatches, fetch_from_table
from geodm_lightning.data.table import ImageTable
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.image_labels import ImageLabelBatches
from geodm_lightning.evaluation.playback import PlayedBatches
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.views import (
    ViewBatches,
    centre_cropped,
    input_spec,
    view_recipe,
)
from geodm_lightning.labels.labeller import Labeller
from geodm_lightning.labels.own import OwnLabels, PlayedLabels

TrainingBatches: TypeAlias = LabelledBatches | ViewBatches | ImageLabelBatches | PlayedBatches
TEST_BATCH = 512  # images at most; decides memory only
TEST_PIXELS = 2**22  # and pixels of them at most: 83 images of 224 px
TRAINING_SAMPLE = 10_000  # most training images whose accuracy is told; evenly spaced


class PlainBatches:
    """Batches ``(normalised images (n, ch, h, w), labels (n,))`` in order, not augmented.

    Args:
        fetch: Maps indices ``(n,)`` to normalised images.
        labels: ``(N,)`` class indices.
        most: Most images to show, evenly spaced over all; None shows every one.
        resolution: Height and width of the images, which bounds a batch.
    """

    def __init__(
        self, fetch: Fetch, labels: Tensor, *, resolution: int, most: int | None = None
    ) -> None:
        self._fetch = fetch
        self._labels = labels
        every = 1 if most is None else -(-len(labels) // most)
        self._indices = torch.arange(0, len(labels), every, device=labels.device)
        self._batch_size = max(1, min(TEST_BATCH, TEST_PIXELS // resolution**2))

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self._indices.split(self._batch_size):
            yield self._fetch(chosen), self._labels[chosen]


class EvaluationDataModule(lightning.LightningDataModule):
    """Batches of one student: the candidate augmented for training, real images for the test.

    All epochs are one stream, so a thousand epochs of one batch cost no thousand restarts of
    the trainer. Order and augmentation are keyed by seed and index, not by the candidate:
    students of the same seed and index differ in the images alone.

    Args:
        candidate: Images to train on.
        test: Real images to test on.
        protocol: Batch size, schedule and augmentation or views.
        seed: Seed of the run.
        index: Position of the student.
        labeller: Gives the answers of teachers to the views, or the labels that came with the
            images; None for hard labels.

    Raises:
        InputError: If the images are smaller than what students see.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        test: ImageTable,
        protocol: Protocol,
        seed: int,
        index: int,
        labeller: Labeller | None = None,
    ) -> None:
        super().__init__()
        self._candidate = candidate
        self._test = test
        self._resolution = input_spec(protocol, test.spec).resolution
        self._batches = self._training_batches(protocol, labeller, seed=seed, index=index)

    def _training_batches(
        self, protocol: Protocol, labeller: Labeller | None, *, seed: int, index: int
    ) -> TrainingBatches:
        """Return batches of given views, of drawn ones, or of augmented images."""
        candidate, spec = self._candidate, self._test.spec
        num_steps = num_training_steps(candidate, protocol)
        if isinstance(labeller, PlayedLabels):
            return PlayedBatches(candidate, labeller.views, num_steps=num_steps)
        augmentation = augmentation_for(
            spec, strategy=protocol.augmentation, mode=protocol.augmentation_mode
        )
        if protocol.views is not None:
            return ViewBatches(
                candidate,
                recipe=view_recipe(protocol, spec),
                batch_size=protocol.batch_size,
                num_steps=num_steps,
                seed=seed,
                index=index,
                labeller=labeller,
                augmentation=augmentation,
            )
        soft, labels = isinstance(labeller, OwnLabels), candidate.labels
        batches = LabelledBatches(
            self._seen(candidate.fetch),
            torch.arange(len(labels), device=labels.device) if soft else labels,
            batch_size=protocol.batch_size,
            num_steps=num_steps,
            key=(seed, "student", index),
            augmentation=augmentation,
            cutmix_probability=protocol.cutmix_probability,
        )
        if isinstance(labeller, OwnLabels):
            return ImageLabelBatches(batches, labels, labeller)
        return batches

    def train_dataloader(self) -> TrainingBatches:
        """Return the augmented batches, or the views, of all epochs."""
        return self._batches

    def test_dataloader(self) -> list[PlainBatches]:
        """Return the real test images, then the training images as they are."""
        test, candidate, side = self._test, self._candidate, self._resolution
        labels = test.labels.to(test.device)
        fetch = self._seen(fetch_from_table(test))
        return [
            PlainBatches(fetch, labels, resolution=side),
            PlainBatches(
                self._seen(candidate.fetch),
                candidate.labels,
                resolution=side,
                most=TRAINING_SAMPLE,
            ),
        ]

    def _seen(self, fetch: Fetch) -> Fetch:
        side = self._test.spec.resolution
        return centre_cropped(fetch, side=side, resolution=self._resolution)


def num_training_steps(candidate: Candidate, protocol: Protocol) -> int:
    """Return the optimiser steps of a student: the protocol's epochs, or the whole-set budget."""
    if candidate.ipc is None:
        return protocol.whole_steps
    return protocol.num_steps(len(candidate.labels))
