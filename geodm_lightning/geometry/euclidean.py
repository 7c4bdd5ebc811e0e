"""Flat space."""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.geometry.manifold import Manifold, at_least_float32


class Euclidean(Manifold):
    """Flat space: normal, ambient and embedded coordinates are the same."""

    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def curvature(self) -> Tensor:
        """Zero."""
        return self.zero

    def squared_distance(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """``(a - b)^2 + 2 gap``; see :meth:`Manifold.squared_distance`."""
        return (a - b if difference is None else difference).square() + 2 * gap

    def dist2(self, u: Tensor, v: Tensor) -> Tensor:
        """``|u - v|^2`` itself; see :meth:`Manifold.dist2`."""
        return (at_least_float32(u) - at_least_float32(v)).square().sum(-1)

    def centroid(self, u: Tensor) -> Tensor:
        """Mean of ``(..., n, d)``: ``(..., d)``."""
        return at_least_float32(u).mean(-2)

    def expmap0(self, u: Tensor) -> Tensor:
        """Return ``u``."""
        return u

    def logmap0(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def lift(self, radius: Tensor) -> tuple[Tensor, Tensor | None]:
        """``1`` and no height; see :meth:`Manifold.lift`."""
        return torch.ones_like(radius), None

    def embed(self, u: Tensor) -> Tensor:
        """Return ``u``."""
        return u

    def seen_from(self, u: Tensor, origin: Tensor) -> Tensor:
        """``u - origin``; see :meth:`Manifold.seen_from`."""
        return at_least_float32(u) - at_least_float32(origin)[..., None, :]

    def view(self, radius: Tensor, origin: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """``1, -1``; see :meth:`Manifold.view`."""
        return torch.ones_like(inner), -torch.ones_like(inner)
