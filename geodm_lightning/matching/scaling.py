"""Features at unit scale, the length in which curvature is measured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScaledFeatures(NamedTuple):
    """Real and synthetic features divided by the mean norm of the real ones.

    Attributes:
        real: ``(C, R, d)``, of mean norm 1 in every class.
        synthetic: ``(C, S, d)``, in the same unit.
        norm: ``(C,)`` the divisor, without gradient.
    """

    real: Tensor
    synthetic: Tensor
    norm: Tensor


def scale_features(real: Tensor, synthetic: Tensor) -> ScaledFeatures:
    """Bring the features of each class to unit mean norm.

    A curvature bends only what is as large as its radius, so features must come to size 1
    before they are taken for points. One divisor serves a whole class: the norms of single
    samples keep their differences, without which all points would have the same radius.
    The divisor is inferred; the GeoDM paper does not say how features are scaled.

    Args:
        real: Features of real images, ``(C, R, d)`` or any leading axes.
        synthetic: Features of synthetic images, ``(C, S, d)``.

    Returns:
        Both in units of the class's mean real norm, in float32 at least.
    """
    dtype = torch.promote_types(real.dtype, torch.float32)
    real, synthetic = real.to(dtype), synthetic.to(dtype)
    norm = torch.linalg.vector_norm(real.detach(), dim=-1).mean(-1)
    norm = norm.clamp(min=torch.finfo(dtype).eps)
    unit = norm[..., None, None]
    return ScaledFeatures(real / unit, synthetic / unit, norm)
