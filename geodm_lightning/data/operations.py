"""Differentiable image operations: one set of parameters for a whole group of images.

Every function takes images ``(G, n, ch, h, w)`` and draws ``(G, k)`` of U(0, 1), group ``g``
using row ``g`` for all of its ``n`` images, and returns images of the same shape. Pixels that
come from outside the image are zero, which in normalised images is the mean colour.

References:
    Zhao and Bilen, "Dataset condensation with differentiable siamese augmentation", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Magnitudes of the DSA strategy used by DM, DSDM and NCFM.
BRIGHTNESS = 1.0  # pixel units
SATURATION = 2.0  # upper end of the factor
CONTRAST = 0.5  # lower end of the factor, upper end 1 + CONTRAST
CROP = 0.125  # largest shift, share of the side
CUTOUT = 0.5  # side of the square, share of the image's side
FLIP = 0.5  # probability
SCALE = 1.2  # largest factor, smallest is its inverse
ROTATE = 15.0  # degrees to either side


def color(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast; three draws per group.

    All three are affine in a pixel, its grey and the mean of its image, so that together they
    are one product and one sum.
    """
    brightness, saturation, contrast = draws.T[:, :, None, None, None, None]
    saturation, contrast = saturation * SATURATION, contrast + CONTRAST
    grey = images.mean(2, keepdim=True)
    mean = grey.mean((3, 4), keepdim=True)
    shift = (1 - contrast) * mean + (brightness - 0.5) * BRIGHTNESS
    rest = torch.addcmul(shift, grey, contrast * (1 - saturation))
    return (images * (contrast * saturation)).add_(rest)


def crop(images: Tensor, draws: Tensor) -> Tensor:
    """Shift by whole pixels in both directions; two draws per group."""
    height, width = images.shape[-2:]
    down, right = _shift(draws[:, 0], height), _shift(draws[:, 1], width)
    if _is_one_on_cpu(draws):
        y, x = int(down), int(right)
        return F.pad(images, (-x, x, -y, y))
    rows = torch.arange(height, device=draws.device) + down[:, None]
    columns = torch.arange(width, device=draws.device) + right[:, None]
    inside = (rows[:, :, None] >= 0) & (rows[:, :, None] < height)
    inside = inside & (columns[:, None] >= 0) & (columns[:, None] < width)
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
    index = flat[:, None, None].expand(images.shape).flatten(-2)
    shifted = images.flatten(-2).gather(-1, index).view_as(images)
    return shifted.mul_(inside[:, None, None])


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Blank a square of half the side, clipped at the border; two draws per group."""
    height, width = images.shape[-2:]
    rows = _in_interval(draws[:, 0], height)
    columns = _in_interval(draws[:, 1], width)
    blank = rows[:, :, None] & columns[:, None]
    return images * ~blank[:, None, None]


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left and right with probability one half; one draw per group."""
    if _is_one_on_cpu(draws):
        return images.flip(-1) if draws.item() < FLIP else images
    mirrored = draws[:, 0, None, None, None, None] < FLIP
    return torch.where(mirrored, images.flip(-1), images)


def scale(images: Tensor, draws: Tensor) -> Tensor:
    """Stretch both directions by factors of their own; two draws per group."""
    factors = 1 / SCALE + draws * (SCALE - 1 / SCALE)
    return _resampled(images, torch.diag_embed(factors))


def rotate(images: Tensor, draws: Tensor) -> Tensor:
    """Rotate about the centre; one draw per group."""
    angle = (draws[:, 0] * 2 - 1) * math.radians(ROTATE)
    first = torch.stack([angle.cos(), -angle.sin()], -1)
    second = torch.stack([angle.sin(), angle.cos()], -1)
    return _resampled(images, torch.stack([first, second], -2))


class Operation(NamedTuple):
    """An operation and how many uniform draws it takes per group."""

    apply: Callable[[Tensor, Tensor], Tensor]
    num_draws: int


OPERATIONS: dict[str, Operation] = {
    "color": Operation(color, 3),
    "crop": Operation(crop, 2),
    "cutout": Operation(cutout, 2),
    "flip": Operation(flip, 1),
    "scale": Operation(scale, 2),
    "rotate": Operation(rotate, 1),
}


def _is_one_on_cpu(draws: Tensor) -> bool:
    """Whether there is but one group, whose draw can be read without waiting for a device."""
    return len(draws) == 1 and draws.device.type == "cpu"


def _shift(draws: Tensor, side: int) -> Tensor:
    """Whole pixels ``(G,)`` of at most CROP of the side that images are shifted by."""
    reach = int(side * CROP + 0.5)
    return (draws * (2 * reach + 1)).floor().long() - reach


def _in_interval(draws: Tensor, side: int) -> Tensor:
    """Whether a row ``(G, side)`` lies within an interval of CUTOUT of the side."""
    length = int(side * CUTOUT + 0.5)
    # An interval of even length lies left of its centre by half a pixel: one more centre.
    num_centres = side + (1 - length % 2)
    start = (draws * num_centres).floor().long() - length // 2
    position = torch.arange(side, device=draws.device) - start[:, None]
    return (position >= 0) & (position < length)


def _resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Read every image at linearly mapped positions, ``matrix (G, 2, 2)``, bilinearly.

    Every image is read by itself: as channels of one image all of a group would be read pixel
    after pixel, which leaves the caches of a CPU and most of a GPU unused.
    """
    num_groups, num_images, _, height, width = images.shape
    grid = F.affine_grid(F.pad(matrix, (0, 1)), [num_groups, 1, height, width], align_corners=False)
    grids = grid[:, None].expand(-1, num_images, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(images.flatten(0, 1), grids, align_corners=False).view_as(images)
