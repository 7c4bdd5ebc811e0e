r"""Triton kernels for instance norm, affine map, ReLU and 2×2 average pooling in one pass.

.. math::
    \hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}, \qquad
    y = \mathrm{pool}\,\max(0, w \hat x + b)

with :math:`\mu, \sigma^2` of every map. A program owns all pixels of a few channels of one image:
the maps are read from memory once and the pooled ones, a quarter, are written; nothing in between
is kept. Backward, what is needed of the forward pass is computed again from the maps.

Triton is imported here and nowhere else; :mod:`geodm_lightning.networks.gpu` decides when. Setting
``TRITON_INTERPRET=1`` before the import runs the kernels on CPU tensors, slowly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # values of the maps that a program holds at once
WIDEST = 64  # channels side by side in a tile of channels-last maps


class Plan(NamedTuple):
    """How maps lie in memory, and how they are cut into tiles.

    Attributes:
        format: ``torch.contiguous_format`` or ``torch.channels_last``.
        grid: Programs: images times groups of channels.
        strides: Of image, channel and pixel of the maps, then of the pooled ones, in values.
        sizes: Constants of the kernels.
    """

    format: torch.memory_format
    grid: tuple[int]
    strides: tuple[int, ...]
    sizes: dict[str, Any]


def plan_of(maps: Tensor) -> Plan:
    """Plan the tiles of maps ``(n, ch, h, w)``; all but channels-last are channels-first."""
    images, channels, height, width = maps.shape
    num_pixels, num_pooled = height * width, (height // 2) * (width // 2)
    is_last = not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
    if is_last:
        block_c = min(triton.next_power_of_2(channels), WIDEST)
        block_p = min(triton.next_power_of_2(num_pixels), TILE // block_c)
        strides = (num_pixels * channels, 1, channels, num_pooled * channels, 1, channels)
    else:
        block_p = min(triton.next_power_of_2(num_pixels), TILE)
        block_c = min(triton.next_power_of_2(channels), TILE // block_p)
        strides = (channels * num_pixels, num_pixels, 1, channels * num_pooled, num_pooled, 1)
    sizes = {
        "width": width,
        "num_pixels": num_pixels,
        "pooled_width": width // 2,
        "num_pooled": num_pooled,
        "block_c": block_c,
        "block_p": block_p,
    }
    grid = (images * triton.cdiv(channels, block_c),)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return Plan(layout, grid, strides, sizes)


@triton.jit
def statistics(  # type: ignore[no-untyped-def]
    own, mine, eps, pixel_stride,
    num_pixels: tl.constexpr, block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """Return mean and 1/deviation of every map, ``(block_c, 1)``."""
    steps = tl.arange(0, block_p)[None, :]
    total = tl.zeros([block_c, 1], tl.float32)
    for start in range(0, num_pixels, block_p):
        p = start + steps
        x = tl.load(own + p * pixel_stride, mask=mine & (p < num_pixels), other=0.0).to(tl.float32)
        total += tl.sum(x, 1, keep_dims=True)
    mean = total / num_pixels
    total = tl.zeros([block_c, 1], tl.float32)
    for start in range(0, num_pixels, block_p):
        p = start + steps
        x = tl.load(own + p * pixel_stride, mask=mine & (p < num_pixels), other=0.0).to(tl.float32)
        apart = tl.where(p < num_pixels, x - mean, 0.0)
        total += tl.sum(apart * apart, 1, keep_dims=True)
    return mean, 1.0 / tl.sqrt(total / num_pixels + eps)


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    maps, weight, bias, pooled, means, scales,
    channels, eps, image_stride, channel_stride, pixel_stride,
    pooled_image_stride, pooled_channel_stride, pooled_pixel_stride,
    width: tl.constexpr, num_pixels: tl.constexpr,
    pooled_width: tl.constexpr, num_pooled: tl.constexpr,
    block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """Write pooled maps, and mean and 1/deviation of every map for the way back."""
    groups = tl.cdiv(channels, block_c)
    image = (tl.program_id(0) // groups).to(tl.int64)
    c = tl.program_id(0) % groups * block_c + tl.arange(0, block_c)[:, None]
    mine = c < channels
    own = maps + image * image_stride + c * channel_stride
    steps = tl.arange(0, block_p)[None, :]

    mean, scale = statistics(own, mine, eps, pixel_stride, num_pixels, block_c, block_p)
    tl.store(means + image * channels + c, mean, mask=mine)
    tl.store(scales + image * channels + c, scale, mask=mine)

    slope = tl.load(weight + c, mask=mine, other=0.0).to(tl.float32) * scale
    level = tl.load(bias + c, mask=mine, other=0.0).to(tl.float32) - slope * mean
    target = pooled + image * pooled_image_stride + c * pooled_channel_stride
    for start in range(0, num_pooled, block_p):
        q = start + steps
        inside = mine & (q < num_pooled)
        first = own + (q // pooled_width * (2 * width) + q % pooled_width * 2) * pixel_stride
        summed = tl.zeros([block_c, block_p], tl.float32)
        for corner in tl.static_range(4):
            shift = (corner // 2 * width + corner % 2) * pixel_stride
            x = tl.load(first + shift, mask=inside, other=0.0).to(tl.float32)
            summed += tl.maximum(x * slope + level, 0.0, propagate_nan=tl.PropagateNan.ALL)
        values = (0.25 * summed).to(pooled.dtype.element_ty)
        tl.store(target + q * pooled_pixel_stride, values, mask=inside)


@triton.jit
def normed_and_gradient(  # type: ignore[no-untyped-def]
    own, pushes, p, mine, mean, scale, weight, bias,
    pixel_stride, pooled_pixel_stride,
    width: tl.constexpr, num_pixels: tl.constexpr,
    pooled_width: tl.constexpr, num_pooled: tl.constexpr,
):  # fmt: skip
    """Return the normed pixels, and the gradient by what the ReLU is given."""
    inside = mine & (p < num_pixels)
    x = tl.load(own + p * pixel_stride, mask=inside, other=0.0).to(tl.float32)
    normed = (x - mean) * scale
    row, column = p // width // 2, p % width // 2
    is_pooled = inside & (column < pooled_width) & (row < num_pooled // pooled_width)
    place = pushes + (row * pooled_width + column) * pooled_pixel_stride
    push = 0.25 * tl.load(place, mask=is_pooled, other=0.0).to(tl.float32)
    return normed, tl.where(normed * weight + bias > 0, push, 0.0)


@triton.jit
def backward_kernel(  # type: ignore[no-untyped-def]
    maps, weight, bias, means, scales, pushes, gradients, weight_parts, bias_parts,
    channels, image_stride, channel_stride, pixel_stride,
    pooled_image_stride, pooled_channel_stride, pooled_pixel_stride,
    width: tl.constexpr, num_pixels: tl.constexpr,
    pooled_width: tl.constexpr, num_pooled: tl.constexpr,
    block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """Write the gradient by the maps, and every image's part of that by weight and bias."""
    groups = tl.cdiv(channels, block_c)
    image = (tl.program_id(0) // groups).to(tl.int64)
    c = tl.program_id(0) % groups * block_c + tl.arange(0, block_c)[:, None]
    mine = c < channels
    own = maps + image * image_stride + c * channel_stride
    pushed = pushes + image * pooled_image_stride + c * pooled_channel_stride
    mean = tl.load(means + image * channels + c, mask=mine, other=0.0)
    scale = tl.load(scales + image * channels + c, mask=mine, other=0.0)
    w = tl.load(weight + c, mask=mine, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=mine, other=0.0).to(tl.float32)
    steps = tl.arange(0, block_p)[None, :]

    along = tl.zeros([block_c, 1], tl.float32)
    level = tl.zeros([block_c, 1], tl.float32)
    for start in range(0, num_pixels, block_p):
        normed, push = normed_and_gradient(
            own, pushed, start + steps, mine, mean, scale, w, b,
            pixel_stride, pooled_pixel_stride, width, num_pixels, pooled_width, num_pooled,
        )  # fmt: skip
        along += tl.sum(push * normed, 1, keep_dims=True)
        level += tl.sum(push, 1, keep_dims=True)
    tl.store(weight_parts + image * channels + c, along, mask=mine)
    tl.store(bias_parts + image * channels + c, level, mask=mine)
    for start in range(0, num_pixels, block_p):
        p = start + steps
        normed, push = normed_and_gradient(
            own, pushed, p, mine, mean, scale, w, b,
            pixel_stride, pooled_pixel_stride, width, num_pixels, pooled_width, num_pooled,
        )  # fmt: skip
        gradient = scale * w * (push - (level + normed * along) / num_pixels)
        target = gradients + image * image_stride + c * channel_stride + p * pixel_stride
        tl.store(target, gradient.to(gradients.dtype.element_ty), mask=mine & (p < num_pixels))


def pooled_maps(
    maps: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward kernel.

    Args:
        maps: ``(n, ch, h, w)`` in float32, bfloat16 or float16, with ``h, w`` of at least 2.
        weight: ``(ch,)`` factor on the normed maps.
        bias: ``(ch,)`` added to them.
        eps: Added to the variance.

    Returns:
        Pooled maps ``(n, ch, h // 2, w // 2)`` of the type and memory format of ``maps``, and
        float32 ``(n, ch)`` means and inverse deviations.
    """
    plan = plan_of(maps)
    maps = maps.contiguous(memory_format=plan.format)
    images, channels, height, width = maps.shape
    shape = (images, channels, height // 2, width // 2)
    pooled = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=plan.format)
    means, scales = maps.new_empty(2, images, channels, dtype=torch.float32).unbind()
    arguments = (maps, weight.contiguous(), bias.contiguous(), pooled, means, scales)
    with torch.cuda.device_of(maps):
        forward_kernel[plan.grid](
            *arguments, channels, eps, *plan.strides, **plan.sizes, enable_fp_fusion=True
        )
    return pooled, means, scales


def gradients_of(
    pushes: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward kernel.

    Args:
        pushes: Gradient by the pooled maps, ``(n, ch, h // 2, w // 2)``.
        maps: As given to :func:`pooled_maps`, like the three after it.
        weight: ``(ch,)``.
        bias: ``(ch,)``.
        means: As :func:`pooled_maps` returned them, like ``scales``.
        scales: ``(n, ch)``.

    Returns:
        Gradients by maps, weight and bias, each of the type of what it is by.
    """
    plan = plan_of(maps)
    maps = maps.contiguous(memory_format=plan.format)
    pushes = pushes.contiguous(memory_format=plan.format)
    gradients = torch.empty_like(maps)
    parts = maps.new_empty(2, *means.shape, dtype=torch.float32)
    arguments = (maps, weight.contiguous(), bias.contiguous(), means, scales, pushes, gradients)
    with torch.cuda.device_of(maps):
        backward_kernel[plan.grid](
            *arguments, *parts, means.shape[1], *plan.strides, **plan.sizes, enable_fp_fusion=True
        )
    by_weight, by_bias = parts.sum(1)
    return gradients, by_weight.to(weight.dtype), by_bias.to(bias.dtype)
