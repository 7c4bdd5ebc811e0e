"""Soft labels that came with a set: of its images, or of views that came with them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from geodm_lightning.labels.given import GivenViews


class OwnLabels:
    """Labels of the images themselves, whatever view of them is shown.

    Args:
        table: ``(N, K)`` float32 logits of all images, on the device of the students.

    Attributes:
        num_classes: Number of logits ``K``.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.num_classes = table.shape[1]

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return the logits ``(n, K)`` of images ``indices`` ``(n,)``, the same in every epoch."""
        return self.table[indices.to(self.table.device)].to(images.device, non_blocking=True)

    def identity(self) -> str:
        """Return what decides the labels: their digest."""
        values = self.table.detach().cpu().contiguous().numpy().tobytes()
        return f"own {hashlib.sha256(values).hexdigest()[:32]}"


class PlayedLabels:
    """Labels of views that were made elsewhere and are played back as they were.

    Args:
        views: The views with their labels.

    Attributes:
        views: Likewise.
        num_classes: Number of logits ``K``.
    """

    def __init__(self, views: GivenViews) -> None:
        self.views = views
        self.num_classes = views.num_classes

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return the logits ``(n, K)`` of the given views of images ``indices`` in an epoch."""
        batches = list(self.views.batches(epoch))
        places = torch.cat([batch.indices for batch in batches]).argsort()
        table = torch.cat([batch.logits for batch in batches])
        return table[places[indices.cpu()]].float().to(images.device)

    def identity(self) -> str:
        """Return what decides views and labels: their digest."""
        return f"given {self.views.digest()[:32]}"
