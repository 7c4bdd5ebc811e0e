r"""Points seen from another origin: the translation that carries the origin to the pole.

The logarithm at ``p``, carried to the pole by parallel transport along the geodesic, is the
logarithm at the pole of the translated points. With signed curvature :math:`k`, ``sn`` and
``cs`` the sine and cosine of the space, and :math:`s(a) = sn(a)/a`, the translated point of
``u`` has the spatial coordinates

.. math::
    y = s(b)\,u - \big(s(a)\,cs(b) + \tfrac k2 s(a/2)^2 s(b) \langle u, p\rangle\big)\,p,
    \qquad a = \|p\|,\ b = \|u\| .

Near ``p`` this subtracts nearly equal numbers, so there the part along ``p`` is taken as
:math:`sn(b - a) - cs(a)\,s(b)\,gap/a` and the part across as that of :math:`u - p`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from geodm_lightning.geometry.manifold import paired, square_root

_NEAR_THE_POLE = 0.1  # origins nearer than this, in radii of curvature, have no use for a ray


class SquaredDistance(Protocol):
    """The elementwise law of a manifold; see :meth:`Manifold.squared_distance`."""

    def __call__(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """Return squared distances."""


def translate(
    u: Tensor,
    origin: Tensor,
    *,
    curvature: Tensor,
    ratio: Callable[[Tensor], Tensor],
    cosine: Callable[[Tensor], Tensor],
    squared_distance: SquaredDistance,
) -> Tensor:
    """Normal coordinates of points after the translation that takes ``origin`` to the pole.

    Args:
        u: Normal coordinates, shape ``(..., n, d)``, inside the reach of the space.
        origin: The new origin, shape ``(..., d)``, inside the reach as well.
        curvature: Signed sectional curvature, a scalar.
        ratio: ``sn(x)/x`` as a function of the length ``x``, even and smooth.
        cosine: ``cs(x)`` as a function of the length ``x``.
        squared_distance: Law of the distance, which gives the length of the result.

    Returns:
        Normal coordinates ``(..., n, d)`` whose radius is the distance from ``origin``;
        exactly 0, with finite gradients, where a point is the origin.
    """
    p = origin[..., None, :]
    b, a, gap, difference = paired(u, p)
    a = a.expand_as(b)
    chord = u - p
    close = chord.square().sum(-1) < a * b
    on_ray = close | (curvature.abs() * a.square() > _NEAR_THE_POLE**2)
    stretch = ratio(b)

    half = ratio(a / 2).square() * stretch * (a * b - gap)
    pull = ratio(a) * cosine(b) + curvature / 2 * half
    generic = stretch[..., None] * u - pull[..., None] * p

    safe = torch.where(on_ray, a, 1)
    ray = p / safe[..., None]
    along = difference * ratio(difference.abs()) - cosine(a) * stretch * gap / safe
    across = chord - (chord * ray).sum(-1, keepdim=True) * ray
    split = stretch[..., None] * across + along[..., None] * ray
    y = torch.where(on_ray[..., None], split, generic)
    return _of_length(y, square_root(squared_distance(b, a, gap, difference=difference)))


def _of_length(y: Tensor, length: Tensor) -> Tensor:
    """Give vectors ``(..., d)`` the lengths ``(...)``; their squares may overflow."""
    largest = y.detach().abs().amax(-1, keepdim=True)
    unit_size = torch.where(largest > 0, largest, 1)
    unit = y / unit_size
    norm = torch.linalg.vector_norm(unit, dim=-1)
    apart = (norm > 0) & (length > 0)
    scale = torch.where(apart, length / torch.where(apart, norm, 1), unit_size[..., 0])
    return scale[..., None] * unit
