"""Unit-range pixels to what networks see, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.types import DatasetSpec


def normalise(images: Tensor, spec: DatasetSpec) -> Tensor:
    """Subtract the data set's mean and divide by its standard deviation, per channel.

    Args:
        images: Unit-range images ``(..., ch, h, w)``.
        spec: The data set.

    Returns:
        Normalised images of the same shape, differentiable.
    """
    mean, std = _statistics(images, spec)
    return (images - mean).div_(std)


def denormalise(images: Tensor, spec: DatasetSpec) -> Tensor:
    """Undo :func:`normalise`; the result is not clamped to unit range.

    Args:
        images: Normalised images ``(..., ch, h, w)``.
        spec: The data set.

    Returns:
        Images of the same shape in pixel units, differentiable.
    """
    mean, std = _statistics(images, spec)
    return (images * std).add_(mean)


def _statistics(images: Tensor, spec: DatasetSpec) -> tuple[Tensor, Tensor]:
    values = torch.tensor((spec.mean, spec.std), dtype=images.dtype)
    mean, std = values.to(images.device, non_blocking=True)[..., None, None]
    return mean, std
