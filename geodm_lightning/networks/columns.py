"""Convolution of images of few channels by 3×3 kernels, for CPUs.

The pixels under the kernel are gathered in rows, and the rows multiplied, image by image in the
core's cache; the arithmetic is in ``native/columns.c``. Channels of the result lie together in
memory, as those who follow want them. Letters of shapes: n images, C channels in, K channels out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from geodm_lightning.native.library import call, panel, pixels_of, threads_for
from geodm_lightning.networks.winograd import ALONE

PARTS = 16  # of images, whose derivatives by kernels are added up; whatever cores there are


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int) -> Tensor:
    """Convolve images with 3×3 kernels at stride 1, as ``conv2d`` does.

    An image's result does not depend on the images beside it, nor on the number of threads.

    Args:
        images: Images of shape ``(n, C, H, W)``, float32 on a CPU.
        weight: Kernels of shape ``(K, C, 3, 3)``, K a multiple of 32.
        bias: Constants of shape ``(K,)``, or None.
        padding: Zeros around every image, in pixels.

    Returns:
        Maps of shape ``(n, K, H + 2·padding − 2, W + 2·padding − 2)``, channels last in memory,
        differentiable any number of times.

    Raises:
        BuildError: If the kernels cannot be compiled here.
    """
    result: Tensor = _Convolve.apply(images, weight, bias, padding)
    return result


def panels(matrix: Tensor) -> Tensor:
    """Return a matrix ``(r, c)`` as the kernels read it, ``(c / panel, r, panel)``.

    Columns are filled with zeros to a multiple of the panel.
    """
    width = panel()
    missing = -matrix.shape[1] % width
    filled = functional.pad(matrix, (0, missing)) if missing else matrix
    return filled.unflatten(1, (-1, width)).transpose(0, 1).contiguous()


class _Convolve(torch.autograd.Function):
    """The convolution; second derivatives are those of PyTorch's."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: int
    ) -> Tensor:
        images = images.contiguous()
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        kernels = panels(weight.flatten(1).t())
        n, inputs, high, wide = images.shape
        outputs = len(weight)
        result = images.new_empty(n, high + 2 * padding - 2, wide + 2 * padding - 2, outputs)
        tail = (bias, result, outputs, threads_for(result.numel() * inputs, alone=ALONE))
        call("columns_convolve", images, *images.shape, padding, kernels, *tail)
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        of_images = of_weight = of_bias = None
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            options = {"padding": ctx.padding}
            if wants[0]:
                of_images = conv2d_input(images.shape, weight, gradient, **options)
            if wants[1]:
                of_weight = conv2d_weight(images, weight.shape, gradient, **options)
        else:
            pushes = pixels_of(gradient)
            if wants[0]:
                of_images = _back(pushes, images, weight, ctx.padding)
            if wants[1]:
                of_weight = _correlated(images, pushes, weight, ctx.padding)
        if wants[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_weight, of_bias, None


def _back(pushes: Tensor, images: Tensor, weight: Tensor, padding: int) -> Tensor:
    kernels, outputs = panels(weight.flatten(1)), len(weight)
    of_images = torch.empty_like(images)

    threads = threads_for(pushes.numel() * images.shape[1], alone=ALONE)
    shape = (*images.shape, padding)
    call("columns_back", pushes, *shape, kernels, of_images, outputs, threads)
    return of_images


def _correlated(images: Tensor, pushes: Tensor, weight: Tensor, padding: int) -> Tensor:
    outputs, taps = len(weight), weight[0].numel()

    sums = images.new_zeros(PARTS, taps + taps % 2, outputs)
    threads = threads_for(pushes.numel() * images.shape[1], alone=ALONE)
    tail = (pushes, outputs, sums, PARTS, threads)
    call("columns_correlate", images, *images.shape, padding, *tail)
    return sums.sum(0)[:taps].t().reshape(weight.shape)
