"""Pixel spaces: unit range, normalised, whitened, 8 bits; and which of them a file is in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.data.catalog import CIFAR10, IMAGENET, Statistics
from geodm_lightning.data.normalise import denormalise, normalise
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.whitening import load_whitening
from geodm_lightning.types import DatasetSpec, InputError

ROUNDING = 1e-3  # of unit range: what is off by less is within it
UNCLAMPED = 0.25  # pixels learned in unit range without clamping leave it by about this at most
# Learned pixels may leave unit range far: on the digits, sets of one image per class reached
# -7 to 11 (measured), while their mean stayed that of the data. Beyond this, a space is wrong.
LARGEST = 64.0  # pixel, in unit range
# Normalised pixels deviate by about 1, whitened ones of MTT by 0.23 (CIFAR-10, eps = 0.1).
LOW_CONTRAST = 1 / 3
AT_ONCE = 512  # images in double precision; decides memory only
MEAN_OFF = 0.25  # of unit range: what the mean pixel may be outside it

# Constants other projects normalise by, where they are not the catalog's (read in their loaders).
THEIRS: dict[str, dict[str, Statistics]] = {
    "tiny_imagenet": dict.fromkeys(("dc", "idm", "mtt", "datm", "ddranking"), IMAGENET),
    "cifar100": {"ddranking": CIFAR10},
}


class Settled(NamedTuple):
    """Pixels whose space is known.

    Attributes:
        images: float32 in unit range, or uint8.
        space: Space of the file.
        warnings: What was inferred.
    """

    images: Tensor
    space: str
    warnings: tuple[str, ...] = ()


def normalised_as(spec: DatasetSpec, format: str | None, declared: Declaration) -> DatasetSpec:
    """Return ``spec`` with the constants by which pixels of a format were normalised.

    Raises:
        InputError: If constants of another number of channels are declared.
    """
    mean, std = THEIRS.get(spec.name, {}).get(format or "", (spec.mean, spec.std))
    mean, std = declared.mean or mean, declared.std or std
    if not len(mean) == len(std) == spec.channels or min(std) <= 0:
        raise InputError(f"mean={mean} std={std} do not fit the {spec.channels} channels of images")
    return spec._replace(mean=mean, std=std)


def settle_space(
    images: Tensor, spec: DatasetSpec, declared: Declaration, *, custom: str | None = None
) -> Settled:
    """Bring pixels to unit range, or leave them in 8 bits.

    Args:
        images: ``(N, ch, h, w)`` as a file holds them, of any dtype.
        spec: Data set, with the constants the pixels were normalised by.
        declared: What the caller says.
        custom: Space that the format always has, None where it may be any.

    Returns:
        The pixels, their space, and a warning where it was inferred.

    Raises:
        InputError: If pixels are not finite, the space cannot be told, or they are outside the
            declared one.
    """
    if images.dtype == torch.uint8:
        if declared.space not in (None, "uint8"):
            raise InputError(f"space={declared.space} is declared, but pixels have 8 bits: uint8")
        return Settled(images, "uint8")
    images = images.float()
    if not images.isfinite().all():
        raise InputError("there are pixels that are not finite; nothing can be trained on them")
    if declared.space is not None or declared.zca is not None:
        return _declared(images, spec, declared)
    if custom is not None:
        return _declared(images, spec, declared._replace(space=custom))
    return _inferred(images, spec)


def share_outside(images: Tensor) -> float:
    """Return the share of unit-range pixels that leave their range by more than rounding."""
    return ((images < -ROUNDING) | (images > 1 + ROUNDING)).float().mean().item()


def from_unit(images: Tensor, spec: DatasetSpec) -> Tensor:
    """Normalise unit-range images ``(N, ch, h, w)`` with one rounding to float32.

    De-normalised again, pixels of unit range come back within 2⁻²³.
    """
    return torch.cat([normalise(part.double(), spec).float() for part in images.split(AT_ONCE)])


def _to_unit(images: Tensor, spec: DatasetSpec) -> Tensor:
    return torch.cat([denormalise(part.double(), spec).float() for part in images.split(AT_ONCE)])


def _declared(images: Tensor, spec: DatasetSpec, declared: Declaration) -> Settled:
    space = declared.space or "zca"
    if space == "uint8":
        if not _are_bytes(images):
            raise InputError(f"space=uint8 is declared, but pixels {_range(images)} are no bytes")
        return Settled(images.to(torch.uint8), space)
    if space == "zca":
        if declared.zca is None:
            raise InputError("whitened pixels need their matrix: zca=FILE with mean and matrix")
        unit = load_whitening(declared.zca).undo(images)
    else:
        unit = _to_unit(images, spec) if space == "normalised" else images
    mean, is_wild = float(unit.mean()), float(unit.abs().max()) > LARGEST
    if is_wild or not -MEAN_OFF <= mean <= 1 + MEAN_OFF:
        raise InputError(
            f"space={space} is declared, but pixels {_range(images)} are then {_range(unit)}, "
            f"{mean:.3g} on average, in unit range; correct space= or the constants"
        )
    if space == "unit" and _looks_normalised(images, spec):
        raise InputError(
            f"space=unit is declared, but pixels {_range(images)} are exactly in unit range with "
            f"the mean and std of {spec.name}: space=normalised"
        )
    warnings = []
    if space == "normalised" and _fits(images, ROUNDING):
        warnings.append(f"space=normalised is declared, but pixels {_range(images)} look like unit")
    elif not _fits(unit, ROUNDING):
        share = f"{share_outside(unit):.0%} outside unit range"
        warnings.append(f"pixels are not clamped: {_range(unit)}, {share}")
    return Settled(unit, space, tuple(warnings))


def _inferred(images: Tensor, spec: DatasetSpec) -> Settled:
    unit = _to_unit(images, spec)
    if _fits(images, ROUNDING):
        return Settled(images, "unit", (f"inferred space=unit: pixels {_range(images)}",))
    if _looks_normalised(images, spec):
        reason = f"pixels {_range(images)} are {_range(unit)} with {spec.name}'s mean and std"
        doubt = _doubt(images)
        if doubt is not None:
            raise InputError(f"{reason}, but {doubt}")
        return Settled(unit, "normalised", (f"inferred space=normalised: {reason}",))
    problem = "could be in either unit or" if _fits(unit, ROUNDING) else "are in neither unit nor"
    bytes_ = "space=uint8, " if _are_bytes(images) else ""
    raise InputError(
        f"pixels {_range(images)}, {float(images.mean()):.3g} on average, {problem} normalised "
        f"range ({_range(unit)} with the constants of {spec.name}, whose images are "
        f"{sum(spec.mean) / len(spec.mean):.3g} on average); learned pixels may leave either: "
        f"declare space=unit, space=normalised, {bytes_}or space=zca zca=FILE"
    )


def _doubt(images: Tensor) -> str | None:
    """Return why pixels in the range of normalised ones may be others, and the way out."""
    low, high, deviation = float(images.min()), float(images.max()), float(images.std())
    if max(abs(low + 1), abs(high - 1)) <= ROUNDING:
        return (
            "they end at -1 and 1, as images of generators do: declare space=normalised with "
            "mean= and std= of 0.5 each, or space=normalised alone"
        )
    if deviation < LOW_CONTRAST:
        return (
            f"they deviate by {deviation:.2g}, normalised ones by about 1: whitened? declare "
            "space=zca zca=FILE, or space=normalised"
        )
    return None


def _looks_normalised(images: Tensor, spec: DatasetSpec) -> bool:
    """Whether pixels are in unit range when de-normalised, and far from it as they are."""
    return _fits(_to_unit(images, spec), ROUNDING) and not _fits(images, UNCLAMPED)


def _are_bytes(images: Tensor) -> bool:
    return torch.equal(images, images.round()) and _fits(images / 255, 0.0)


def _fits(images: Tensor, tolerance: float) -> bool:
    return -tolerance <= float(images.min()) and float(images.max()) <= 1 + tolerance


def _range(images: Tensor) -> str:
    return f"{float(images.min()):.3g} to {float(images.max()):.3g}"
