"""Views of images: crop, mirror and a patch of a partner, drawn per epoch and image.

A view is a function of (seed, epoch, image) alone. Teachers that label the views and students
that learn from them draw the same ones again, whatever their batches, workers and processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.data.batches import Fetch
from geodm_lightning.randomness import counter_uniform
from geodm_lightning.types import InputError

TRIES = 10  # shapes tried before the whole image is taken, as torchvision's RandomResizedCrop


@dataclass(frozen=True)
class ViewRecipe:
    """How views are drawn.

    The defaults are EDC's: a weak crop, a mirror where the data set allows it, CutMix always.

    Attributes:
        resolution: Height and width of a view in pixels.
        crop_scale: Smallest and largest share of the image's area that is cropped.
        crop_ratio: Smallest and largest width over height of a crop.
        flip: Whether every second view is mirrored.
        cutmix_probability: Chance of a view to carry a patch of another.
        cutmix_beta: Both parameters of the Beta distribution of the area that is kept.

    Raises:
        InputError: If a value is out of range.

    References:
        Shao et al., "Elucidating the design space of dataset condensation", 2024;
        Yun et al., "CutMix: regularization strategy to train strong classifiers", 2019.
    """

    resolution: int
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    cutmix_probability: float = 1.0
    cutmix_beta: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        object.__setattr__(self, "crop_ratio", tuple(self.crop_ratio))
        if self.resolution < 1:
            raise InputError(f"resolution of views must be positive, got {self.resolution}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise InputError(f"crop_scale must rise within (0, 1], got {self.crop_scale}")
        if not 0 < self.crop_ratio[0] <= 1 <= self.crop_ratio[1]:
            raise InputError(f"crop_ratio must reach from (0, 1] to 1 or more: {self.crop_ratio}")
        if not 0 <= self.cutmix_probability <= 1:
            value = self.cutmix_probability
            raise InputError(f"cutmix_probability must be within [0, 1], got {value}")
        if not self.cutmix_beta > 0:
            raise InputError(f"cutmix_beta must be positive, got {self.cutmix_beta}")


class Crops(NamedTuple):
    """Rectangles of images, possibly mirrored.

    Attributes:
        boxes: ``(n, 4)`` float64 top, left, height and width in shares of the image's side.
        mirrored: ``(n,)`` bool.
    """

    boxes: Tensor
    mirrored: Tensor


class Views(NamedTuple):
    """What is drawn for a batch of images in an epoch; lives on the CPU.

    Attributes:
        crops: Crops of the images themselves.
        partners: ``(n,)`` int64 index of the image a patch is taken from; the image's own where
            nothing is mixed.
        partner_crops: Crops of the partners: those of their own views in the same epoch.
        cuts: ``(n, 4)`` int64 top, left, bottom and right of the patch in pixels of the view,
            of no area where nothing is mixed.
        shares: ``(n,)`` float32 share of the view's area that is the image's own; the weight of
            its label, ``1 - shares`` being that of the partner's.
    """

    crops: Crops
    partners: Tensor
    partner_crops: Crops
    cuts: Tensor
    shares: Tensor


def draw(recipe: ViewRecipe, *, seed: int, epoch: int, indices: Tensor, num_images: int) -> Views:
    """Draw the views of some images in one epoch.

    Args:
        recipe: How views are drawn.
        seed: Seed of the views.
        epoch: Number of the epoch.
        indices: ``(n,)`` int64 images, on any device.
        num_images: Images of the whole set: every one of them may be a partner, uniformly, so
            that partners do not depend on batches (inferred: peers permute within a batch).

    Returns:
        The views, on the CPU.

    Raises:
        InputError: If an index is not below ``num_images``.
    """
    indices = indices.cpu()
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < num_images:
        raise InputError(f"views are asked of images {indices.tolist()}, the set has {num_images}")
    draws = counter_uniform(seed, "views", "mix", epoch, counters=indices, num=5)
    coins, others, areas, rows, columns = draws.T
    mixed = coins < recipe.cutmix_probability
    partners = torch.where(mixed, (others * num_images).long(), indices)
    cuts = _cuts(recipe, areas, torch.stack([rows, columns], 1)) * mixed[:, None]
    heights, widths = (cuts[:, 2:] - cuts[:, :2]).T
    boxes, mirrored = _crops(recipe, seed, epoch, torch.cat([indices, partners]))
    num = len(indices)
    return Views(
        crops=Crops(boxes[:num], mirrored[:num]),
        partners=partners,
        partner_crops=Crops(boxes[num:], mirrored[num:]),
        cuts=cuts,
        shares=1 - heights * widths / recipe.resolution**2,
    )


def render(fetch: Fetch, indices: Tensor, views: Views, recipe: ViewRecipe) -> Tensor:
    """Make the views that were drawn.

    A crop is resampled by a triangle filter that is widened where pixels are merged, one axis
    after the other: bilinear interpolation when enlarging, antialiased as by torchvision and
    Pillow when reducing. Neighbours of the crop are read where there are any. Every pixel comes out
    of the same few products and sums whatever the batch: on a CPU it is the same bit for bit.

    Args:
        fetch: Maps indices ``(n,)`` to normalised square images ``(n, ch, side, side)``.
        indices: ``(n,)`` int64 images, as given to :func:`draw`.
        views: What was drawn for them.
        recipe: How.

    Returns:
        Images ``(n, ch, resolution, resolution)`` on the device of what ``fetch`` returns.
    """
    mixed = (views.shares < 1).nonzero().flatten()
    if len(mixed) == 0:
        return crop(fetch(indices), views.crops, resolution=recipe.resolution)
    partners = views.partners[mixed].to(indices.device)
    crops = Crops(
        *(torch.cat([a, b[mixed]]) for a, b in zip(views.crops, views.partner_crops, strict=True))
    )
    both = crop(fetch(torch.cat([indices, partners])), crops, resolution=recipe.resolution)
    images, patches = both.split([len(indices), len(mixed)])
    top, left, bottom, right = views.cuts[mixed].T[:, :, None]
    position = torch.arange(recipe.resolution)
    rows, columns = (position >= top) & (position < bottom), (position >= left) & (position < right)
    inside = (rows[:, :, None] & columns[:, None])[:, None].to(images.device)
    mixed = mixed.to(images.device)
    return images.index_copy(0, mixed, torch.where(inside, patches, images[mixed]))


def crop(images: Tensor, crops: Crops, *, resolution: int) -> Tensor:
    """Cut a rectangle out of every image and bring it to one size.

    Args:
        images: Square images ``(n, ch, side, side)``.
        crops: One rectangle per image.
        resolution: Height and width of the result.

    Returns:
        Images ``(n, ch, resolution, resolution)``, resampled as :func:`render` says.

    Raises:
        InputError: If the images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise InputError(f"views need square images, got {tuple(images.shape[-2:])} pixels")
    tops, lefts, heights, widths = crops.boxes.T
    rows = _resampled(images.transpose(1, 2), tops, heights, resolution)
    # A mirrored crop is read from its right end backwards.
    lefts = torch.where(crops.mirrored, lefts + widths, lefts)
    widths = torch.where(crops.mirrored, -widths, widths)
    columns = _resampled(rows.permute(0, 3, 2, 1), lefts, widths, resolution)
    return columns.permute(0, 2, 3, 1).contiguous()


def _resampled(lines: Tensor, starts: Tensor, lengths: Tensor, resolution: int) -> Tensor:
    """Read a stretch of the lines of every image at ``resolution`` places.

    Args:
        lines: ``(n, side, ...)`` rows or columns of images.
        starts: ``(n,)`` where the stretch begins, in shares of the side.
        lengths: ``(n,)`` how long it is, in shares of the side; negative backwards.
        resolution: Lines of the result.

    Returns:
        Lines ``(n, resolution, ...)``, each a weighted sum of a few neighbours.
    """
    num_images, side = lines.shape[:2]
    step = (lengths * side / resolution)[:, None]  # lines of the image per line of the result
    support = step.abs().clamp(min=1.0)
    centres = (starts * side)[:, None] + step * (torch.arange(resolution) + 0.5)
    # As many taps as any crop may need: a number that does not depend on the batch.
    taps = torch.arange(math.ceil(2 * max(side / resolution, 1.0)))
    places = (centres - support + 0.5).floor().long()[..., None] + taps
    weights = (1 - (places + 0.5 - centres[..., None]).abs() / support[..., None]).clamp(min=0)
    weights = weights * ((places >= 0) & (places < side))
    weights = (weights / weights.sum(-1, keepdim=True)).to(lines)
    offsets = torch.arange(num_images)[:, None, None] * side
    places = (places.clamp(0, side - 1) + offsets).to(lines.device)
    table = lines.reshape(num_images * side, -1)
    read = F.embedding_bag(
        places.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum"
    )
    return read.view(num_images, resolution, *lines.shape[2:])


def _crops(recipe: ViewRecipe, seed: int, epoch: int, images: Tensor) -> Crops:
    """Draw rectangles as torchvision's RandomResizedCrop does, without rounding to pixels."""
    draws = counter_uniform(seed, "views", "crop", epoch, counters=images, num=3 + 2 * TRIES)
    (low, high), ratios = recipe.crop_scale, [math.log(ratio) for ratio in recipe.crop_ratio]
    areas = low + draws[:, 3::2] * (high - low)
    ratio = (ratios[0] + draws[:, 4::2] * (ratios[1] - ratios[0])).exp()
    sizes = torch.stack([(areas / ratio).sqrt(), (areas * ratio).sqrt()], -1)
    fits = (sizes <= 1).all(-1)
    chosen = sizes[torch.arange(len(images)), fits.int().argmax(1)]
    chosen = torch.where(fits.any(1)[:, None], chosen, 1.0)
    boxes = torch.cat([draws[:, :2] * (1 - chosen), chosen], 1)
    return Crops(boxes, (draws[:, 2] < 0.5) & recipe.flip)


def _cuts(recipe: ViewRecipe, areas: Tensor, centres: Tensor) -> Tensor:
    """Draw patches ``(n, 4)`` of Beta-distributed area about uniform centres, clipped."""
    beta = recipe.cutmix_beta
    kept = torch.from_numpy(betaincinv(beta, beta, areas.numpy()))
    half = (1 - kept).sqrt()[:, None] / 2
    ends = torch.cat([centres - half, centres + half], 1).clamp(0, 1)
    return (ends * recipe.resolution).round().long()
