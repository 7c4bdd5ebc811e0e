"""Average pooling of 2×2 pixels that is fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def average_pool_2x2(images: Tensor) -> Tensor:
    """Average every 2×2 pixels; a last odd row or column is left out.

    PyTorch's own kernel for channels-first CPU tensors is scalar; adding rows, then columns, is
    vectorised and faster forward and backward. Other devices use PyTorch's.

    Args:
        images: Maps of shape ``(n, ch, h, w)``.

    Returns:
        Maps of shape ``(n, ch, h // 2, w // 2)``, differentiable any number of times.
    """
    if images.device.type != "cpu":
        return functional.avg_pool2d(images, 2)
    height, width = (side // 2 * 2 for side in images.shape[-2:])
    return _Average.apply(images[..., :height, :width])


class AveragePool(nn.Module):
    """:func:`average_pool_2x2` as a layer."""

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(n, ch, h, w)`` to ``(n, ch, h // 2, w // 2)``."""
        return average_pool_2x2(images)


class _Average(torch.autograd.Function):
    """Average of 2×2 pixels; its derivative is :class:`_Spread`."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept; ``torch.func`` asks for this method."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        *leading, height, width = images.shape
        rows = images.reshape(*leading, height // 2, 2, width)
        rows = rows[..., 0, :] + rows[..., 1, :]
        return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Spread.apply(gradients[0])


class _Spread(torch.autograd.Function):
    """A quarter of every pixel on 2×2 pixels; its derivative is :class:`_Average`."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept; ``torch.func`` asks for this method."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        *leading, height, width = images.shape
        quarter = images * 0.25
        spread = images.new_empty(*leading, height, 2, 2 * width)
        spread[..., 0, ::2] = quarter
        spread[..., 0, 1::2] = quarter
        spread[..., 1, :] = spread[..., 0, :]
        return spread.reshape(*leading, 2 * height, 2 * width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Average.apply(gradients[0])
