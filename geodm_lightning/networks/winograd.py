r"""Convolution by 3×3 kernels with a quarter of the multiplications, for CPUs.

Winograd's F(4×4, 3×3): a tile of 6×6 pixels, transformed, times the transformed kernel gives a
tile of 4×4 pixels of the result in 36 multiplications instead of 144,

.. math:: Y = A^T \left[ (G g G^T) \odot (B^T d B) \right] A,

and summed over channels the multiplications are 36 matrix products. The transforms cost numbers of
their own: the error against float64 is about 1e-5 of the largest value, that of a direct
convolution 1.5e-6.

Letters of shapes: n images, C channels in, K channels out, h × w pixels of the result, th × tw
tiles. Inside, maps are ``(n, h, w, C)``.

References:
    Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.workers import run_each

TILE = 4  # pixels of the result along one side of a tile
SUMS = 8  # of the kernels' derivative, made at once and then added; whatever cores there are
FEWEST = 128  # tiles of a piece, where there are several
PIECE = 2_400_000  # transformed numbers that are worked on at once: 10 MB, longer than cores wait
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)) + (
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
RESULT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
ONE = 7  # of the 36 transformed numbers the one that adds a constant to a tile


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int) -> Tensor:
    """Convolve maps with 3×3 kernels at stride 1, as ``conv2d`` does.

    An image's result does not depend on the images beside it.

    Args:
        maps: Images of shape ``(n, C, H, W)``, any layout in memory; float32 or float64 on a CPU.
        weight: Kernels of shape ``(K, C, 3, 3)``.
        bias: Constants of shape ``(K,)``, or None.
        padding: Zeros around every image, in pixels.

    Returns:
        Maps of shape ``(n, K, H + 2·padding − 2, W + 2·padding − 2)``, channels last in memory,
        differentiable any number of times.
    """
    result: Tensor = _Convolve.apply(maps, weight, bias, padding)
    return result


def transform_kernels(weight: Tensor) -> Tensor:
    """Return kernels ``(K, C, 3, 3)`` transformed, ``(36, C, K)``."""
    outputs, inputs = weight.shape[:2]
    matrix = _matrices(weight.dtype)[0]
    flat = matrix @ weight.transpose(0, 1).reshape(-1, 9).t()
    return flat.view(36, inputs, outputs)


def transform_tiles(padded: Tensor) -> Tensor:
    """Return tiles of maps ``(n, 4·th + 2, 4·tw + 2, C)`` transformed, ``(36, n·th·tw, C)``."""
    n, height, width, channels = padded.shape
    high, wide = height // TILE, width // TILE
    rows = padded.new_empty(6, n, high, width, channels)
    _transform_line(padded.unfold(1, 6, TILE).unbind(-1), rows.unbind(0))
    tiles = padded.new_empty(6, 6, n, high, wide, channels)
    _transform_line(rows.unfold(3, 6, TILE).unbind(-1), tiles.unbind(1))
    return tiles.view(36, -1, channels)


def products(tiles: Tensor, kernels: Tensor, constant: Tensor | None, *, num_images: int) -> Tensor:
    """Return tiles of the result from transformed tiles and kernels.

    Args:
        tiles: Transformed tiles, shape ``(36, n·t, C)``.
        kernels: Transformed kernels, shape ``(36, C, K)``.
        constant: Added to the result, broadcast to ``(n, t, K)``; None for nothing.
        num_images: n.

    Returns:
        Tiles of shape ``(n, 16, t, K)``: the four pixels of a 2×2 window lie ``4·t`` apart, so
        that axis 1 is (row in the window, column in it, row of the window, column of it).
    """
    summed = torch.bmm(tiles, kernels)
    if constant is not None:
        summed[ONE].view(num_images, -1, kernels.shape[2]).add_(constant)
    matrix = _matrices(tiles.dtype)[1].expand(num_images, -1, -1)
    parts = summed.view(36, num_images, -1).transpose(0, 1)
    return torch.bmm(matrix, parts).view(num_images, 16, -1, kernels.shape[2])


def pad(maps: Tensor, padding: int) -> Tensor:
    """Return maps ``(n, C, H, W)`` with zeros around, ``(n, 4·th + 2, 4·tw + 2, C)``.

    Where the result is no multiple of four pixels high or wide, more zeros follow.
    """
    maps = maps.permute(0, 2, 3, 1)
    if padding < 0:
        maps = maps[:, -padding:padding, -padding:padding]
    border = max(padding, 0)
    n, *sides, channels = maps.shape
    high, wide = (_ceil(side + 2 * border - 2) + 2 for side in sides)
    padded = maps.new_zeros(n, high, wide, channels)
    padded[:, border : border + sides[0], border : border + sides[1]] = maps
    return padded


def images_at_once(sides: Sequence[int], channels: int) -> int:
    """Return how many images with such maps are worked on at once; 1 at least."""
    return max(1, PIECE // (36 * channels * pixels_of_tiles(sides) // TILE**2))


def pixels_of_tiles(sides: Sequence[int]) -> int:
    """Return the pixels of the tiles that cover maps of such height and width."""
    return math.prod(map(_ceil, sides))


class _Convolve(torch.autograd.Function):
    """The convolution; its derivatives are itself and :class:`_Correlate`."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, padding: int
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.padding = padding
        kernels = transform_kernels(weight)
        sides = [side + 2 * padding - 2 for side in maps.shape[2:]]
        result = maps.new_empty(len(maps), *map(_ceil, sides), len(weight))

        def run(images: slice) -> None:
            tiles = transform_tiles(pad(maps[images], padding))
            out = result[images]
            _untile(products(tiles, kernels, bias, num_images=len(out)), out=out)

        run_each(run, _pieces(maps, max(weight.shape[:2])))
        return result[:, : sides[0], : sides[1]].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        maps, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        of_maps = of_weight = of_bias = None
        if wants[0]:
            of_maps = convolve(gradient, _turned(weight), padding=2 - ctx.padding)
        if wants[1]:
            of_weight = _Correlate.apply(maps, gradient, ctx.padding)
        if wants[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_maps, of_weight, of_bias, None


class _Correlate(torch.autograd.Function):
    """The derivative of a convolution by its kernels, from its maps and that of its result."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, gradient: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(maps, gradient)
        ctx.padding = padding
        inputs, outputs = maps.shape[1], gradient.shape[1]

        def add_up(pieces: Sequence[slice]) -> Tensor:
            kernels = maps.new_zeros(36, inputs, outputs)
            for images in pieces:
                tiles = transform_tiles(pad(maps[images], padding))
                kernels.baddbmm_(tiles.transpose(1, 2), _transform_result(gradient[images]))
            return kernels

        pieces = _pieces(maps, max(inputs, outputs))
        parts = run_each(add_up, [pieces[k::SUMS] for k in range(max(1, min(SUMS, len(pieces))))])
        flat = _matrices(maps.dtype)[0].T @ reduce(Tensor.add_, parts).flatten(1)
        return flat.view(3, 3, inputs, outputs).permute(3, 2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, gradient = ctx.saved_tensors
        of_maps = of_gradient = None
        if ctx.needs_input_grad[0]:
            of_maps = convolve(gradient, _turned(gradients[0]), padding=2 - ctx.padding)
        if ctx.needs_input_grad[1]:
            of_gradient = convolve(maps, gradients[0], padding=ctx.padding)
        return of_maps, of_gradient, None


def _transform_line(line: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Write the six transformed numbers of six pixels in a row, each a tensor of one shape.

    The rows of the matrix: (4 0 −5 0 1 0), (0 −4 −4 1 1 0), (0 4 −4 −1 1 0), (0 −2 −1 2 1 0),
    (0 2 −1 −2 1 0), (0 4 0 −5 0 1).
    """
    even, odd = line[4] - line[2], line[3] - line[1]
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.add(even, line[0] - line[2], alpha=4, out=out[0])
    torch.sub(line[5] - line[3], odd, alpha=4, out=out[5])
    torch.sub(line[4], line[2], alpha=4, out=even)
    torch.sub(line[3], line[1], alpha=4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])


def _transform_result(gradient: Tensor) -> Tensor:
    """Map a gradient ``(n, K, h, w)`` to that of the products, ``(36, n·th·tw, K)``."""
    n, outputs, *sides = gradient.shape
    high, wide = map(_ceil, sides)
    if [high, wide] != sides:
        gradient = functional.pad(gradient, (0, wide - sides[1], 0, high - sides[0]))
    pixels = gradient.permute(0, 2, 3, 1)
    windows = pixels.reshape(n, high // 4, 2, 2, wide // 4, 2, 2, outputs)
    planes = windows.permute(3, 6, 2, 5, 0, 1, 4, 7).reshape(16, -1)
    return (_matrices(gradient.dtype)[1].T @ planes).view(36, -1, outputs)


def _untile(tiles: Tensor, *, out: Tensor) -> None:
    """Write tiles ``(n, 16, t, K)`` of :func:`products` as maps ``(n, 4·th, 4·tw, K)``."""
    n, height, width, outputs = out.shape
    windows = tiles.view(n, 2, 2, 2, 2, height // 4, width // 4, outputs)
    places = out.view(n, height // 4, 2, 2, width // 4, 2, 2, outputs)
    places.copy_(windows.permute(0, 5, 3, 1, 6, 4, 2, 7))


def _pieces(maps: Tensor, channels: int) -> list[slice]:
    """Return the places of images that are worked on at once.

    Several pieces where there are tiles for it, alike in size, so that all cores have work.
    """
    num_tiles = len(maps) * pixels_of_tiles(maps.shape[2:]) // TILE**2
    least = max(1, min(SUMS, num_tiles // FEWEST))
    size = min(images_at_once(maps.shape[2:], channels), max(1, -(-len(maps) // least)))
    return [slice(start, start + size) for start in range(0, len(maps), size)]


def _turned(weight: Tensor) -> Tensor:
    """Return the kernels that lead back: turned by 180°, channels in and out exchanged."""
    return weight.flip(2, 3).transpose(0, 1)


def _ceil(side: int) -> int:
    return -(-side // TILE) * TILE


@cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what transforms kernels, ``(36, 9)``, and gives tiles of the result, ``(16, 36)``."""
    kernel, result = (torch.tensor(rows, dtype=torch.float64) for rows in (KERNEL, RESULT))
    tiles = torch.kron(result, result).view(2, 2, 2, 2, 36)  # rows and columns of windows, in them
    tiles = tiles.permute(1, 3, 0, 2, 4).reshape(16, 36)
    return torch.kron(kernel, kernel).to(dtype), tiles.to(dtype)
