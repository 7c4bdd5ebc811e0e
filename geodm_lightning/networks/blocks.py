"""Blocks of convolution, instance norm, ReLU and average pooling in one pass, without a graph.

On a CPU an image goes through a whole block in the core's cache, see ``native/blocks.c``. Letters
of shapes: n images, C channels in, K channels out, h × w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from geodm_lightning.native import library
from geodm_lightning.networks import columns, winograd
from geodm_lightning.networks.convolution import Convolution, is_plain, is_worth_tiling

Block: TypeAlias = tuple[Convolution, nn.GroupNorm]
Write: TypeAlias = Callable[[Tensor, Tensor], None]  # (maps, where the pooled ones go)
MOST_PIXELS = 2**17  # of images that go through all blocks at once


def can_embed(blocks: Sequence[Block], images: Tensor) -> bool:
    """Whether :func:`embed` takes these blocks and images, and is faster than their layers.

    It takes float32 on a CPU without a graph: a first convolution of images of few channels, and
    further ones that take Winograd's.
    """
    layers = [layer for block in blocks for layer in block]
    tensors = [images, *(parameter for layer in layers for parameter in layer.parameters())]
    first = blocks[0][0]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if not is_plain(images, first.weight):
        return False
    sides = _sides(images.shape[2:], [convolution for convolution, _ in blocks])
    return (
        first.may_take_columns
        and all(convolution.may_take_winograd for convolution, _ in blocks[1:])
        and all(is_worth_tiling(len(images), pair) for pair in sides[1:])
        and library.is_able()
    )


@torch.no_grad()
def embed(blocks: Sequence[Block], images: Tensor) -> Tensor:
    """Run blocks that :func:`can_embed`.

    The constants of the convolutions are left out, since the norms take them away.

    Args:
        blocks: Convolutions and the norms that follow them.
        images: Images of shape ``(n, C, h, w)``.

    Returns:
        Maps of shape ``(n, K, h', w')``, within 1e-4 of the largest value from the layers one
        after the other; an image's do not depend on the images beside it.
    """
    columns_kernels = columns.panels(blocks[0][0].weight.flatten(1).t())
    writers = [_writer("columns", columns_kernels, *blocks[0])]
    for convolution, norm in blocks[1:]:
        kernels = winograd.transform_kernels(convolution.weight)
        writers.append(_writer("winograd", kernels, convolution, norm))
    sides = _sides(images.shape[2:], [convolution for convolution, _ in blocks])
    pixels = images.shape[2] * images.shape[3]
    at_once = max(1, MOST_PIXELS // pixels)
    last = blocks[-1][0].out_channels
    result = images.new_empty(len(images), last, *(side // 2 for side in sides[-1]))
    for maps, place in zip(images.split(at_once), result.split(at_once), strict=True):
        for write, (high, wide), (convolution, _) in zip(writers, sides, blocks, strict=True):
            maps = maps.contiguous()
            pooled = maps.new_empty(len(maps), high // 2, wide // 2, convolution.out_channels)
            write(maps, pooled)
            maps = pooled
        place.copy_(maps.permute(0, 3, 1, 2))
    return result


def _writer(kind: str, kernels: Tensor, convolution: Convolution, norm: nn.GroupNorm) -> Write:
    """Return what runs a block by the kernel of such a kind."""
    padding = int(convolution.padding[0])
    tail = (norm.weight, norm.bias, norm.eps)

    def write(maps: Tensor, pooled: Tensor) -> None:
        out = (pooled, pooled.shape[3], torch.get_num_threads())
        library.call(f"{kind}_block", maps, *maps.shape, padding, kernels, *tail, *out)

    return write


def _sides(sides: Sequence[int], convolutions: Sequence[Convolution]) -> list[list[int]]:
    """Return height and width of the maps of each convolution, before they are halved."""
    found: list[list[int]] = []
    for convolution in convolutions:
        padding = int(convolution.padding[0])
        found.append([side + 2 * padding - 2 for side in sides])
        sides = [side // 2 for side in found[-1]]
    return found
