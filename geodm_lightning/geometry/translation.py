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

With :math:`gap = ab - \langle u, p\rangle` the factor of ``p`` is also
:math:`s(a/2)\,\big(cs(b - a/2) - \tfrac k2 s(a/2)\,s(b)\,gap\big)`, which in a hyperbolic space
adds positive numbers only; and :math:`\|y\| = sn(d)` at the distance :math:`d` from ``p``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from geodm_lightning.geometry.manifold import non_negative, paired, square_root

_NEAR_THE_POLE = 0.1  # origins nearer than this, in radii of curvature, have no use for a ray


class SquaredDistance(Protocol):
    """The elementwise law of a manifold; see :meth:`Manifold.squared_distance`."""

    def __call__(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """Return squared distances."""


class Law(NamedTuple):
    """The functions of a space of constant curvature, of lengths within its reach.

    Attributes:
        curvature: Signed sectional curvature, a scalar.
        ratio: ``sn(x)/x`` as a function of the length ``x``, even and smooth.
        cosine: ``cs(x)`` as a function of the length ``x``, even and smooth.
        squared_distance: Law of the distance.
    """

    curvature: Tensor
    ratio: Callable[[Tensor], Tensor]
    cosine: Callable[[Tensor], Tensor]
    squared_distance: SquaredDistance


def translate(u: Tensor, origin: Tensor, law: Law) -> Tensor:
    """Normal coordinates of points after the translation that takes ``origin`` to the pole.

    Args:
        u: Normal coordinates, shape ``(..., n, d)``, inside the reach of the space.
        origin: The new origin, shape ``(..., d)``, inside the reach as well.
        law: The space; its distance gives the length of the result.

    Returns:
        Normal coordinates ``(..., n, d)`` whose radius is the distance from ``origin``;
        exactly 0, with finite gradients, where a point is the origin.
    """
    p = origin[..., None, :]
    b, a, gap, difference = paired(u, p)
    a = a.expand_as(b)
    chord = u - p
    close = chord.square().sum(-1) < a * b
    on_ray = close | (law.curvature.abs() * a.square() > _NEAR_THE_POLE**2)
    stretch = law.ratio(b)

    half = law.ratio(a / 2).square() * stretch * (a * b - gap)
    pull = law.ratio(a) * law.cosine(b) + law.curvature / 2 * half
    generic = stretch[..., None] * u - pull[..., None] * p

    safe = torch.where(on_ray, a, 1)
    ray = p / safe[..., None]
    along = difference * law.ratio(difference.abs()) - law.cosine(a) * stretch * gap / safe
    across = chord - (chord * ray).sum(-1, keepdim=True) * ray
    split = stretch[..., None] * across + along[..., None] * ray
    y = torch.where(on_ray[..., None], split, generic)
    return _of_length(y, square_root(law.squared_distance(b, a, gap, difference=difference)))


def view(radius: Tensor, origin: Tensor, inner: Tensor, law: Law) -> tuple[Tensor, Tensor]:
    r"""Scalars ``alpha, beta`` that make ``alpha u + beta p`` of a point seen from ``p``.

    The same points as :func:`translate`'s, without a pass over their coordinates. The sum has
    the rounding errors of its two terms, some :math:`e^{2 \sqrt{-k} \|p\|}` roundings in a
    hyperbolic space, also where a point is close to ``p``.

    Args:
        radius: Radii ``|u|``, shape ``(..., n)``, inside the reach of the space.
        origin: Radius ``|p|``, shape ``(..., 1)``, inside the reach as well.
        inner: Inner products ``<u, p>``, shape ``(..., n)``.
        law: The space.

    Returns:
        Two tensors of shape ``(..., n)``; gradients are finite, also where ``u`` is ``p``.
    """
    gap = non_negative(radius * origin - inner)
    stretch, half = law.ratio(radius), law.ratio(origin / 2)
    pull = half * (law.cosine(radius - origin / 2) - law.curvature / 2 * half * stretch * gap)
    middle = square_root(law.squared_distance(radius, origin, gap)) / 2
    length = law.ratio(middle) * law.cosine(middle)  # sn(d)/d, of twice the reach
    return stretch / length, -pull / length


def _of_length(y: Tensor, length: Tensor) -> Tensor:
    """Give vectors ``(..., d)`` the lengths ``(...)``; their squares may overflow."""
    largest = y.detach().abs().amax(-1, keepdim=True)
    unit_size = torch.where(largest > 0, largest, 1)
    unit = y / unit_size
    norm = torch.linalg.vector_norm(unit, dim=-1)
    apart = (norm > 0) & (length > 0)
    scale = torch.where(apart, length / torch.where(apart, norm, 1), unit_size[..., 0])
    return scale[..., None] * unit
