"""Where a student's soft labels come from."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


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
