"""Blocks of convolution, instance norm, ReLU and average pooling in few passes, without a graph.

Letters of shapes: n images, C channels in, K channels out, h × w pixels, q windows of 2×2 pixels.
The pixels of windows are kept as ``(n, 4, q, K)``: the four of a window lie apart and the channels
together, so that norm, ReLU and pooling are sums of long vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodm_lightning.networks import winograd
from geodm_lightning.networks.convolution import Convolution, is_plain, is_worth_tiling
from geodm_lightning.workers import run_each

Block: TypeAlias = tuple[Convolution, nn.GroupNorm]
Write: TypeAlias = Callable[[Tensor, Tensor], None]  # (maps, where the pooled ones go)
CHUNK = 32  # images that go through all blocks at once
PIECE = 2_400_000  # numbers of windows that are worked on at once
FEW = 4  # channels of images up to which the pixels under a kernel are gathered
SMALLEST = 1e-12  # in place of a norm's weight of 0, so that it has a threshold


def can_embed(blocks: Sequence[Block], images: Tensor) -> bool:
    """Whether :func:`embed` takes these blocks and images, and is faster than their layers.

    It takes float32 on a CPU without a graph: a first convolution of images of few channels to
    maps of even sides, and further ones that take Winograd's, to maps of whole tiles.
    """
    layers = [layer for block in blocks for layer in block]
    tensors = [images, *(parameter for layer in layers for parameter in layer.parameters())]
    first = blocks[0][0]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if first.algorithm != "auto" or first.groups != 1 or not is_plain(images, first.weight):
        return False
    sides = _sides(images.shape[2:], [convolution for convolution, _ in blocks])
    return (
        first.in_channels <= FEW
        and first.kernel_size == (3, 3)
        and all(side % 2 == 0 for side in sides[0])
        and all(side % winograd.TILE == 0 for pair in sides[1:] for side in pair)
        and all(convolution.may_take_winograd for convolution, _ in blocks[1:])
        and all(is_worth_tiling(len(images), pair) for pair in sides[1:])
    )


@torch.no_grad()
def embed(blocks: Sequence[Block], images: Tensor) -> Tensor:
    """Run blocks that :func:`can_embed`.

    The constants of the convolutions are left out, since the norms take them away; the signs of
    the norms are given to the kernels.

    Args:
        blocks: Convolutions and the norms that follow them.
        images: Images of shape ``(n, C, h, w)``.

    Returns:
        Maps of shape ``(n, K, h', w')``, within 1e-4 of the largest value from the layers one
        after the other.
    """
    (first, norm), *others = blocks
    writers = [_columns_writer(first, norm), *(_winograd_writer(*block) for block in others)]
    sides = _sides(images.shape[2:], [convolution for convolution, _ in blocks])
    last = blocks[-1][0].out_channels
    result = images.new_empty(len(images), last, *(side // 2 for side in sides[-1]))

    def run(chunk: slice) -> None:
        maps = images[chunk]
        for write, (high, wide), (convolution, _) in zip(writers, sides, blocks, strict=True):
            pooled = maps.new_empty(len(maps), high // 2, wide // 2, convolution.out_channels)
            write(maps, pooled)
            maps = pooled.permute(0, 3, 1, 2)
        result[chunk] = maps

    run_each(run, [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)])
    return result


def pool_windows(windows: Tensor, norm: nn.GroupNorm, *, out: Tensor) -> None:
    """Normalise windows, take the ReLU and write their averages.

    ``relu(a·x + b)`` is ``a·max(x, −b/a) + b`` for positive ``a``, so the average may be taken
    before ``a`` and ``b``; what is negative in ``a`` belongs into the windows.

    Args:
        windows: Pixels of shape ``(n, 4, q, K)``, of mean 0 in each channel; overwritten.
        norm: Instance norm, whose weights count without their signs.
        out: Where the averages go, shape ``(n, …, K)`` with ``q`` places between.
    """
    variance = windows.square().flatten(1, 2).mean(1)
    factor = norm.weight.abs().clamp_min(SMALLEST) * (variance + norm.eps).rsqrt()
    torch.maximum(windows, (-norm.bias / factor)[:, None, None], out=windows)
    pairs = windows[:, :2].add_(windows[:, 2:])
    sums = (pairs[:, 0] + pairs[:, 1]).view(out.shape)
    shape = (len(out), *[1] * (out.dim() - 2), out.shape[-1])
    torch.addcmul(norm.bias, sums, (factor / 4).view(shape), out=out)


def _winograd_writer(convolution: Convolution, norm: nn.GroupNorm) -> Write:
    kernels = winograd.transform_kernels(_signed(convolution.weight, norm))
    padding, inputs = int(convolution.padding[0]), convolution.in_channels

    def write(maps: Tensor, pooled: Tensor) -> None:
        n, high, wide, outputs = pooled.shape
        size = winograd.images_at_once((2 * high, 2 * wide), max(inputs, outputs))
        places = pooled.view(n, high // 2, 2, wide // 2, 2, outputs).permute(0, 2, 4, 1, 3, 5)
        for piece, place in zip(maps.split(size), places.split(size), strict=True):
            tiles = winograd.transform_tiles(winograd.pad(piece, padding))
            windows = winograd.products(tiles, kernels, None, num_images=len(piece))
            windows -= windows.flatten(1, 2).mean(1)[:, None, None]
            pool_windows(windows.view(len(piece), 4, -1, outputs), norm, out=place)

    return write


def _columns_writer(convolution: Convolution, norm: nn.GroupNorm) -> Write:
    matrix = _signed(convolution.weight, norm).flatten(1).t()  # (9·C, K)
    border = [int(convolution.padding[0])] * 4

    def write(maps: Tensor, pooled: Tensor) -> None:
        _, high, wide, outputs = pooled.shape
        size = max(1, PIECE // (4 * high * wide * outputs))
        for piece, place in zip(maps.split(size), pooled.split(size), strict=True):
            columns = _columns(functional.pad(piece, border))
            columns -= columns.mean(2, keepdim=True)
            windows = (columns.flatten(1).t() @ matrix).view(len(piece), 4, -1, outputs)
            pool_windows(windows, norm, out=place)

    return write


def _columns(padded: Tensor) -> Tensor:
    """Gather what lies under a 3×3 kernel, ``(9·C, n, 4·q)``, window by window."""
    fields = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    windows = fields.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # n, C, h/2, 2, w/2, 2, 3, 3
    n, channels = padded.shape[:2]
    return windows.permute(1, 6, 7, 0, 3, 5, 2, 4).reshape(9 * channels, n, -1)


def _signed(weight: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return kernels whose maps have the sign with which the norm multiplies them."""
    return weight * torch.where(norm.weight < 0, -1.0, 1.0)[:, None, None, None]


def _sides(sides: Sequence[int], convolutions: Sequence[Convolution]) -> list[list[int]]:
    """Return height and width of the maps of each convolution, before they are halved."""
    found: list[list[int]] = []
    for convolution in convolutions:
        padding = int(convolution.padding[0])
        found.append([side + 2 * padding - 2 for side in sides])
        sides = [side // 2 for side in found[-1]]
    return found
