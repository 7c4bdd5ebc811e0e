"""Whether the pixels of a set are in the space they are said to be in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.spaces import share_outside
from geodm_lightning.types import DatasetSpec

SEEN = 2000  # most images looked at, evenly spaced
OUTSIDE = 0.25  # share of pixels outside [0, 1] from which it is told
BYTES = 32.0  # pixels this large are of [0, 255]
CONSTANT = 1 / 255  # range of an image that shows nothing
MANY = 0.1  # share of such images from which a set is refused
ROUGH = 0.2  # correlation of neighbouring pixels below which an image is whitened


class Signature(NamedTuple):
    """What a space of pixels is told by; channels are averaged.

    Attributes:
        mean: Mean of all pixels.
        deviation: Their standard deviation.
        low: Smallest pixel.
        high: Largest pixel.
        outside: Share of pixels outside [0, 1], by more than rounding.
        constant: Share of images that show nothing.
        smoothness: Correlation of horizontal neighbours.
    """

    mean: float
    deviation: float
    low: float
    high: float
    outside: float
    constant: float
    smoothness: float


def signature(images: Tensor) -> Signature:
    """Measure unit-range images ``(n, ch, h, w)``."""
    pixels = images.double()
    left, right = pixels[..., :-1].flatten(), pixels[..., 1:].flatten()
    joined = torch.stack([left, right])
    correlation = torch.corrcoef(joined)[0, 1].nan_to_num(1.0).item() if len(left) > 1 else 1.0
    spread = pixels.flatten(1).amax(1) - pixels.flatten(1).amin(1)
    return Signature(
        mean=pixels.mean().item(),
        deviation=pixels.std().item(),
        low=pixels.min().item(),
        high=pixels.max().item(),
        outside=share_outside(pixels),
        constant=(spread < CONSTANT).double().mean().item(),
        smoothness=correlation,
    )


def range_problems(distilled: DistilledSet, spec: DatasetSpec) -> Iterator[tuple[str, bool]]:
    """Yield what is wrong with the pixels, and whether that makes training a waste.

    The signature of a wrong space is judged by the mean and deviation of the data set.

    Args:
        distilled: The set; evenly spaced images of it are looked at.
        spec: Statistics of the data set.
    """
    every = -(-len(distilled.images) // SEEN)
    images = distilled.unit_images(slice(None, None, every))
    if not images.isfinite().all():
        yield "it holds pixels that are not finite", True
        return
    seen = signature(images)
    if seen.constant:
        yield f"{seen.constant:.1%} of its images show a single colour", seen.constant > MANY
    space = foreign_space(seen, spec)
    if space is not None:
        yield space, True
    elif seen.outside > OUTSIDE:
        text = f"{seen.outside:.0%} of its pixels lie outside [0, 1], from {seen.low:.2f} to "
        yield f"{text}{seen.high:.2f}; students see them unclamped", False


def foreign_space(seen: Signature, spec: DatasetSpec) -> str | None:
    """Return why pixels are not of unit range, None if they may well be."""
    mean, deviation = (sum(values) / len(values) for values in (spec.mean, spec.std))
    told = f"mean {seen.mean:.2f} and deviation {seen.deviation:.2f}, {spec.name} has {mean:.2f} "
    told = f"its pixels have {told}and {deviation:.2f}"
    if seen.high > BYTES:
        return f"{told}: they are of 0 to 255; declare space=uint8"
    far = seen.deviation > 2 * deviation and seen.outside > OUTSIDE
    if far and abs(seen.mean) < mean / 2:
        if seen.smoothness < ROUGH:
            return f"{told}, neighbours hardly correlate: they are whitened; declare space=zca"
        return f"{told}: they look normalised; declare space=normalised"
    inside = seen.low > mean - deviation / 2 and seen.high < mean + 1.5 * deviation
    if inside and seen.deviation < 2 * deviation**2 and seen.deviation < deviation / 2:
        return f"{told}: they were scaled back twice; declare space=unit"
    return None
