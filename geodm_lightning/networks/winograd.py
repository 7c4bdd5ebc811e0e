r"""Convolution by 3×3 kernels with a quarter of the multiplications, for CPUs.

Winograd's F(4×4, 3×3): a tile of 6×6 pixels, transformed, times the transformed kernel gives a
tile of 4×4 pixels of the result in 36 multiplications instead of 144,

.. math:: Y = A^T \left[ (G g G^T) \odot (B^T d B) \right] A,

and summed over channels the multiplications are 36 matrix products. The transforms cost numbers of
their own: the error against float64 is about 1e-5 of the largest value, that of a direct
convolution 1.5e-6. The arithmetic is in ``native/winograd.c``; here it is given its derivatives.

Letters of shapes: n images, C channels in, K channels out, h × w pixels of the result.

References:
    Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.native.library import call, pixels_of, threads_for

TILE = 4  # pixels of the result along one side of a tile
ALONE = 1_000_000  # products of pixels and channels that one core makes sooner than others wake
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)) + (
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int) -> Tensor:
    """Convolve maps with 3×3 kernels at stride 1, as ``conv2d`` does.

    An image's result does not depend on the images beside it, nor on the number of threads.

    Args:
        maps: Images of shape ``(n, C, H, W)``, any layout in memory; float32 on a CPU, C and K
            multiples of 32.
        weight: Kernels of shape ``(K, C, 3, 3)``.
        bias: Constants of shape ``(K,)``, or None.
        padding: Zeros around every image, 0 to 2 pixels.

    Returns:
        Maps of shape ``(n, K, H + 2·padding − 2, W + 2·padding − 2)``, channels last in memory,
        differentiable any number of times.

    Raises:
        BuildError: If the kernels cannot be compiled here.
    """
    result: Tensor = _Convolve.apply(maps, weight, bias, padding)
    return result


def transform_kernels(weight: Tensor, *, turned: bool = False) -> Tensor:
    """Return kernels ``(K, C, 3, 3)`` transformed, ``(36, C, K)`` numbers in the kernels' order.

    Args:
        weight: The kernels.
        turned: Return those that lead back instead: turned by 180°, channels in and out exchanged.
    """
    outputs, inputs = weight.shape[:2]
    strides = [9 * inputs, 9]
    if turned:
        outputs, inputs = inputs, outputs
        strides.reverse()
    kernels = weight.new_empty(36, inputs, outputs)
    shape = (outputs, inputs, *strides, int(turned))
    threads = threads_for(9 * weight.numel(), alone=ALONE)
    call("winograd_kernels", weight.contiguous(), *shape, kernels, threads)
    return kernels


def pixels_of_tiles(sides: Sequence[int]) -> int:
    """Return the pixels of the tiles that cover maps of such height and width."""
    return math.prod(-(-side // TILE) * TILE for side in sides)


class _Convolve(torch.autograd.Function):
    """The convolution; its derivatives are itself and :class:`_Correlate`."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, padding: int
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.padding = padding
        return _convolved(maps, transform_kernels(weight), len(weight), bias, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        maps, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        of_maps = of_weight = of_bias = None
        if wants[0]:
            of_maps = _Back.apply(gradient, weight, 2 - ctx.padding)
        if wants[1]:
            of_weight = _Correlate.apply(maps, gradient, ctx.padding)
        if wants[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_maps, of_weight, of_bias, None


class _Back(torch.autograd.Function):
    """The convolution by kernels that lead back; its derivatives lead forth."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.padding = padding
        kernels = transform_kernels(weight, turned=True)
        return _convolved(maps, kernels, weight.shape[1], None, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = None
        if ctx.needs_input_grad[0]:
            of_maps = convolve(gradients[0], weight, padding=2 - ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _Correlate.apply(gradients[0], maps, 2 - ctx.padding)
        return of_maps, of_weight, None


class _Correlate(torch.autograd.Function):
    """The derivative of a convolution by its kernels, from its maps and that of its result."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, gradient: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(maps, gradient)
        ctx.padding = padding
        pixels, pushes = pixels_of(maps), pixels_of(gradient)
        _, high, wide, inputs = pixels.shape
        outputs = pushes.shape[3]

        sums = maps.new_zeros(36, inputs, outputs)
        shape = (len(pixels), high, wide, inputs, padding)
        threads = threads_for(pushes.numel() * inputs, alone=ALONE)
        call("winograd_correlate", pixels, *shape, pushes, outputs, sums, threads)
        flat = _kernel_matrix().T @ sums.flatten(1)
        return flat.view(3, 3, inputs, outputs).permute(3, 2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, gradient = ctx.saved_tensors
        of_maps = of_gradient = None
        if ctx.needs_input_grad[0]:
            of_maps = _Back.apply(gradient, gradients[0], 2 - ctx.padding)
        if ctx.needs_input_grad[1]:
            of_gradient = convolve(maps, gradients[0], padding=ctx.padding)
        return of_maps, of_gradient, None


def _convolved(
    maps: Tensor, kernels: Tensor, outputs: int, bias: Tensor | None, padding: int
) -> Tensor:
    pixels = pixels_of(maps)
    _, high, wide, inputs = pixels.shape
    sides = (high + 2 * padding - 2, wide + 2 * padding - 2)
    result = maps.new_empty(len(maps), *sides, outputs)

    shape = (len(pixels), high, wide, inputs, padding)
    threads = threads_for(result.numel() * inputs, alone=ALONE)
    call("winograd_convolve", pixels, *shape, kernels, bias, result, outputs, threads)
    return result.permute(0, 3, 1, 2)


@cache
def _kernel_matrix() -> Tensor:
    """Return what transforms kernels, ``(36, 9)``."""
    kernel = torch.tensor(KERNEL, dtype=torch.float64)
    return torch.kron(kernel, kernel).float()
