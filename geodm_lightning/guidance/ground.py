"""What it costs to carry one latent to another, and which way that cost grows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from geodm_lightning.geometry.product import ProductManifold

_ELEMENTS_AT_ONCE = 2**22  # of a temporary tensor: 16 MiB in float32


class GroundCost(Protocol):
    """A cost between flattened latents, class by class.

    Shapes: ``n`` classes, ``a`` and ``m`` latents of each, ``d`` numbers in a latent.
    """

    def unit(self, real: Tensor) -> Tensor:
        """Length ``(n,)`` by which all latents of a class are divided, given ``(n, m, d)``."""

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Costs ``(n, a, m)`` between ``(n, a, d)`` and ``(n, m, d)``, without gradient."""

    def gradient(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        r"""Gradient ``(n, d)`` of :math:`\sum_j w_j\, cost(x, y_j)` in ``x``, weights fixed.

        Args:
            x: One latent of each class, ``(n, d)``.
            y: Real latents, ``(n, m, d)``.
            weights: ``(n, m)``.
        """


class AbsoluteGround:
    r"""Sum of absolute differences, :math:`\|x - y\|_1`, the cost of arXiv 2512.00308."""

    def unit(self, real: Tensor) -> Tensor:
        """Ones: latents are taken as they are."""
        return real.new_ones(real.shape[0])

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Costs ``(n, a, m)``; no tensor of shape ``(n, a, m, d)`` is held."""
        with torch.no_grad():
            return torch.cdist(x, y, p=1)

    def gradient(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        r"""Weighted signs :math:`\sum_j w_j\, sign(x - y_j)`, 0 where ``x`` is ``y_j``.

        Real latents are taken a few at a time, so the memory does not grow with them.
        """
        rows = max(1, _ELEMENTS_AT_ONCE // max(1, x.numel()))
        total = torch.zeros_like(x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            parts = zip(y.split(rows, dim=1), weights.split(rows, dim=1), strict=True)
            for some, weight in parts:
                signs = (x[:, None] - some).sign_()
                total += (weight[:, None] @ signs)[:, 0]
        return total


class ProductGround:
    """Squared distance in GeoDM's product of spaces, latents taken for normal coordinates.

    Neither paper has it. Latents of a class are divided by the mean norm of its real ones, the
    scale at which curvatures are given.

    Args:
        geometry: Product of spaces on the device of the latents; nothing in it is learned.
    """

    def __init__(self, geometry: ProductManifold) -> None:
        self.geometry = geometry

    def unit(self, real: Tensor) -> Tensor:
        """Mean norm ``(n,)`` of the real latents of each class."""
        norm = torch.linalg.vector_norm(real, dim=-1).mean(-1)
        return norm.clamp(min=torch.finfo(norm.dtype).eps)

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Costs ``(n, a, m)``; see :meth:`ProductManifold.cost`."""
        with torch.no_grad():
            return self.geometry.cost(x, y)

    def gradient(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Gradient ``(n, d)`` by automatic differentiation of the one row."""
        with torch.enable_grad():
            row = x.detach().requires_grad_()
            value = (weights * self.geometry.cost(row[:, None], y)[:, 0]).sum()
            return torch.autograd.grad(value, row)[0]
