"""Points in the coordinates in which characteristic functions are taken."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Embedding(NamedTuple):
    """Points ``[height, scale * tangent]``, kept apart; ``height`` may be missing.

    Attributes:
        tangent: Normal coordinates, shape ``(..., n, d)``.
        radius: Their lengths, shape ``(..., n)``.
        scale: What multiplies them, shape ``(..., n)``.
        height: The coordinate beside them, shape ``(..., n)``.
    """

    tangent: Tensor
    radius: Tensor
    scale: Tensor
    height: Tensor | None

    @property
    def width(self) -> int:
        """Number of coordinates, ``d`` or ``d + 1``."""
        return self.tangent.shape[-1] + (self.height is not None)

    def times(self, factor: Tensor) -> Embedding:
        """Multiply every coordinate by a factor that broadcasts to ``(..., n)``."""
        height = None if self.height is None else factor * self.height
        return self._replace(scale=factor * self.scale, height=height)

    def coordinates(self) -> Tensor:
        """The points themselves: ``(..., n, d)``, or ``(..., n, d + 1)`` with the height first."""
        spatial = self.scale[..., None] * self.tangent
        if self.height is None:
            return spatial
        return torch.cat([self.height[..., None], spatial], dim=-1)

    def length(self) -> Tensor:
        """Lengths ``(..., n)`` of the points, with a zero gradient where they are 0."""
        parts = [self.scale * self.radius, *([] if self.height is None else [self.height])]
        return torch.linalg.vector_norm(torch.stack(parts, dim=-1), dim=-1)

    def inner(self, others: Tensor) -> Tensor:
        """Inner products ``(..., n, m)`` with vectors ``(m, d)``, ``(m, d + 1)`` with a height.

        The product is of tangents: where only the scale and the height have a gradient, theirs
        is elementwise and needs no second product.
        """
        if self.height is None:
            return self.scale[..., None] * (self.tangent @ others.mT)
        spatial = self.scale[..., None] * (self.tangent @ others[:, 1:].mT)
        return torch.addcmul(spatial, self.height[..., None], others[:, 0])
