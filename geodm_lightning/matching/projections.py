r"""Coordinates of points on lines, geodesics, horospheres and great circles.

The shadow of a point along a direction :math:`\theta` follows from two numbers, its radius
:math:`a = \|u\|` and :math:`\langle u, \theta\rangle`, so factors that share their normal
coordinates share one matrix product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.geometry import Hyperbolic, Spherical


class Shadows(NamedTuple):
    """What slices through the origin see of points.

    Attributes:
        radius: Distances from the origin, ``(..., 1, n)``.
        along: Components of the normal coordinates along directions, ``(..., K, n)``.
    """

    radius: Tensor
    along: Tensor


def cast_shadows(u: Tensor, directions: Tensor) -> Shadows:
    """Return radius and components of ``u (..., n, d)`` along unit ``directions (K, d)``."""
    radius = torch.linalg.vector_norm(u, dim=-1)[..., None, :]
    return Shadows(radius, directions @ u.mT)


def draw_directions(like: Tensor, num_slices: int, *, generator: torch.Generator) -> Tensor:
    """Draw unit vectors, uniform on the sphere, for points ``like (..., n, d)``: ``(K, d)``."""
    return functional.normalize(_gaussian(like, num_slices, generator, like.shape[-1]), dim=-1)


def draw_planes(like: Tensor, num_slices: int, *, generator: torch.Generator) -> Tensor:
    """Draw uniform planes of the ambient space of a sphere, as orthonormal ``(K, 2, d + 1)``."""
    pair = _gaussian(like, num_slices, generator, 2, like.shape[-1] + 1)
    first = functional.normalize(pair[:, 0], dim=-1)
    second = pair[:, 1] - (pair[:, 1] * first).sum(-1, keepdim=True) * first
    return torch.stack([first, functional.normalize(second, dim=-1)], dim=1)


def geodesic_coordinates(factor: Hyperbolic, shadows: Shadows) -> Tensor:
    r"""Signed distance from the origin of the nearest point on a geodesic through it.

    .. math:: \sinh(\sqrt c\, t) = S / \sqrt{1 + \sinh^2(\sqrt c\, a) - S^2}

    with :math:`S = \sinh(\sqrt c\, a)\cos\varphi` the spatial Lorentz coordinate along the
    geodesic. It shortens distances exponentially far from the origin.

    Returns:
        Coordinates of shape ``(..., K, n)``, a length; ``<u, direction>`` in the flat limit.

    References:
        Bonet et al., "Hyperbolic sliced-Wasserstein via geodesic and horospherical
        projections", 2022.
    """
    _, reach, along = _ambient(factor, shadows)
    across = ((reach - along) * (reach + along)).clamp(min=0)
    return torch.asinh(along * (1 + across).rsqrt()) / factor.sqrt_magnitude


def horosphere_coordinates(factor: Hyperbolic, shadows: Shadows) -> Tensor:
    r"""Negative Busemann function, constant on the horospheres about a point at infinity.

    .. math:: t = -\log(\cosh(\sqrt c\, a) - \sinh(\sqrt c\, a) \cos\varphi) / \sqrt c

    It is written as :math:`a - \log(1 + e^{\sqrt c\, a} \sinh(\sqrt c\, a)(1 - \cos\varphi)) /
    \sqrt c`, which neither overflows nor cancels far from the origin.

    Returns:
        Coordinates of shape ``(..., K, n)``, a length; ``<u, direction>`` in the flat limit.

    References:
        Bonet et al., "Hyperbolic sliced-Wasserstein via geodesic and horospherical
        projections", 2022.
    """
    _, reach, along = _ambient(factor, shadows)
    angle = (factor.sqrt_magnitude * shadows.radius).clamp(max=factor.max_angle)
    slack = reach - along
    slack = slack + (slack.clamp(min=0) - slack).detach()  # the origin, where it is 0, has a slope
    return (angle - torch.log1p(angle.exp() * slack)) / factor.sqrt_magnitude


def meridian_coordinates(factor: Spherical, shadows: Shadows) -> Tensor:
    """Angle in turns of the nearest point on a great circle through the pole (the origin).

    Returns:
        Coordinates of shape ``(..., K, n)``; a turn is ``2 pi / sqrt(c)`` long, and the length
        tends to ``<u, direction>`` in the flat limit. A point that is equally far from the
        whole circle is put at the pole, without gradient.
    """
    pole, _, along = _ambient(factor, shadows)
    return _turns(pole.expand_as(along), along)


def great_circle_coordinates(factor: Spherical, u: Tensor, planes: Tensor) -> Tensor:
    """Angle in turns of the nearest point on the great circle of any plane.

    Args:
        factor: Sphere.
        u: Normal coordinates, shape ``(..., n, d)``.
        planes: Orthonormal pairs of ambient vectors, ``(K, 2, d + 1)``.

    Returns:
        Coordinates of shape ``(..., K, n)``; see :func:`meridian_coordinates`.

    References:
        Bonet et al., "Spherical sliced-Wasserstein", 2023.
    """
    ambient = (factor.sqrt_magnitude * factor.expmap0(u)).mT
    return _turns(planes[:, 0] @ ambient, planes[:, 1] @ ambient)


def _ambient(factor: Hyperbolic | Spherical, shadows: Shadows) -> tuple[Tensor, Tensor, Tensor]:
    """Ambient coordinates at curvature 1: along the origin, spatial length, along the slice."""
    radius, along = shadows
    ambient = factor.sqrt_magnitude * factor.expmap0(radius[..., None])
    first, reach = ambient.unbind(-1)
    away = radius > 0
    stretch = torch.where(away, reach / torch.where(away, radius, 1), factor.sqrt_magnitude)
    return first, reach, stretch * along


def _turns(x: Tensor, y: Tensor) -> Tensor:
    """Angle of ``(x, y)`` in turns; 0, without gradient, where both are within rounding of 0."""
    away = torch.maximum(x.abs(), y.abs()) > torch.finfo(x.dtype).eps
    return torch.atan2(torch.where(away, y, 0), torch.where(away, x, 1)) / (2 * math.pi)


def _gaussian(like: Tensor, num_slices: int, generator: torch.Generator, *shape: int) -> Tensor:
    """Standard Gaussian numbers ``(num_slices, *shape)`` on the device of ``like``."""
    device = generator.device
    drawn = torch.randn(num_slices, *shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)
