"""Augmented batches of images that have soft labels of their own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from geodm_lightning.data.batches import LabelledBatches
from geodm_lightning.evaluation.supervision import StudentBatch
from geodm_lightning.labels.own import OwnLabels


class ImageLabelBatches:
    """The batches of hard labels, with the soft labels of the images and of their patches.

    Args:
        positions: Batches whose labels are positions ``0 … N - 1`` of the images: augmented and
            mixed as they would be with hard labels.
        labels: ``(N,)`` class indices.
        soft: Soft labels of the images.
    """

    def __init__(self, positions: LabelledBatches, labels: Tensor, soft: OwnLabels) -> None:
        self.positions = positions
        self.labels = labels
        self.soft = soft

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[StudentBatch]:
        for batch in self.positions:
            images, own = batch[:2]
            partner, share = (own, 1.0) if len(batch) == 2 else batch[2:]
            yield StudentBatch(
                images=images,
                labels=self.labels[own],
                partner_labels=self.labels[partner],
                shares=torch.full((len(images),), share, device=images.device),
                logits=self.soft.logits(0, own, images),
                partner_logits=self.soft.logits(0, partner, images),
            )
