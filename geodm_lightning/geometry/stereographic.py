r"""The space of constant curvature of either sign, in one law.

With signed curvature :math:`k`, :math:`sn_k(x) = \sin(\sqrt k x)/\sqrt k` and its kin are
analytic in :math:`k`, hyperbolic where it is negative and linear where it is zero, and

.. math::
    d = 2\, arcsn_k \sqrt{ sn_k^2\big(\tfrac{a-b}2\big)
        + \tfrac{sn_k(a)}a \tfrac{sn_k(b)}b \tfrac{gap}2 } .

All functions below are taken of :math:`z = k x^2`, by their series near zero, so values and
gradients, curvature's included, are right where the curvature passes through zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.curved import (
    ARC_BOUND,
    ARC_SERIES,
    CURVATURE_RANGE,
    RATIO_BOUND,
    RATIO_SERIES,
    check_curvature_range,
    polynomial,
    weighted_mean,
)
from geodm_lightning.geometry.hyperbolic import Hyperbolic, mean_shortfall
from geodm_lightning.geometry.manifold import Manifold, at_least_float32
from geodm_lightning.geometry.spherical import Spherical
from geodm_lightning.geometry.translation import Law, translate, view
from geodm_lightning.types import InputError

_ARCTAN_SERIES = (1.0, -1 / 3, 1 / 5, -1 / 7, 1 / 9)
_FLAT = 1e-12  # magnitude below which no point is far enough to be held


class Stereographic(Manifold):
    r"""Space of signed curvature ``kappa``, which may be learned through zero.

    Equal to :class:`Hyperbolic`, :class:`Euclidean` and :class:`Spherical` where the curvature
    is negative, zero and positive, the radii at which points are held included. Ambient
    coordinates are the kappa-stereographic ones of the Poincaré ball and the stereographic
    projection, in which the metric at the origin is four times the Euclidean one: a point at
    distance ``a`` from the origin lies at :math:`\tan_k(a/2)`.

    Args:
        curvature: Signed sectional curvature at the start, in 1/length^2.
        learnable: Whether it is a parameter; otherwise it is a buffer.
        curvature_range: The second number bounds the magnitude; the first plays no part, the
            curvature being free to vanish.

    Raises:
        InputError: If the range is not one, or the curvature lies outside.

    References:
        Bachmann et al., "Constant curvature graph convolutional networks", 2020.
    """

    kappa: Tensor

    def __init__(
        self,
        curvature: float = 0.0,
        *,
        learnable: bool = False,
        curvature_range: tuple[float, float] = CURVATURE_RANGE,
    ) -> None:
        super().__init__()
        self.largest = check_curvature_range(curvature_range)[1]
        if not abs(curvature) <= self.largest:
            raise InputError(
                f"curvature {curvature} lies outside [{-self.largest}, {self.largest}], which "
                "curvature_range allows a stereographic factor; change one of the two"
            )
        kappa = torch.tensor(float(curvature))
        if learnable:
            self.kappa = nn.Parameter(kappa)
        else:
            self.register_buffer("kappa", kappa)

    @property
    def curvature(self) -> Tensor:
        """Signed sectional curvature, a scalar; differentiable when learnable."""
        return self.kappa

    def squared_distance(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """Law at the top of this file; see :meth:`Manifold.squared_distance`."""
        held_a, held_b = self._held_radius(a), self._held_radius(b)
        radial = held_a - held_b
        if difference is not None:
            radial = torch.where((held_a < a) | (held_b < b), radial, difference)
        half = radial / 2 * self._ratio(radial / 2)
        turn = self._ratio(held_a) * _share(held_a, a) * self._ratio(held_b) * _share(held_b, b)
        squared = half.square() + turn * gap / 2  # sn_k(d/2)^2
        return 4 * squared * _arc(self.kappa * squared)

    def expmap0(self, u: Tensor) -> Tensor:
        """Stereographic coordinates ``tan_k(|u|/2) u/|u|`` of ``(..., d)``, of the same shape."""
        u = self._held(u)
        half = torch.linalg.vector_norm(u, dim=-1, keepdim=True) / 2
        return self._ratio(half) / self._cosine(half) * u / 2

    def logmap0(self, x: Tensor) -> Tensor:
        """Normal coordinates ``2 arctan_k(|x|) x/|x|`` of stereographic ones, ``(..., d)``."""
        x = at_least_float32(x)
        return 2 * _arctan(self.kappa * x.square().sum(-1, keepdim=True)) * x

    def centroid(self, u: Tensor) -> Tensor:
        r"""Mean of the ``cs_k`` and ``sn_k`` coordinates, scaled back to the space.

        Its radius is :math:`\arctan_k` of the length of the mean of :math:`sn_k(a)\,u/a` over
        the mean of :math:`cs_k(a)`: the midpoint of Ungar and of Law et al. in either sign.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            Normal coordinates of the centroid, shape ``(..., d)``; it is unstable only where
            points of a positively curved space balance each other out.
        """
        u = self._held(u)
        radius = torch.linalg.vector_norm(u, dim=-1)
        stretch = self._ratio(radius)
        mean, height = weighted_mean(u, stretch), self._cosine(radius).mean(-1)
        squared = mean.square().sum(-1)
        bent = self.kappa.abs() * squared
        near = (height > 0) & (bent < ARC_BOUND * height.square())
        length = torch.where(near | (squared == 0), 1, squared).sqrt()

        tangent = self.kappa * squared / torch.where(near, height, 1).square()
        series = polynomial(torch.where(near, tangent, 0), _ARCTAN_SERIES)
        size = torch.where(self.kappa.abs() > _FLAT, self.kappa.abs(), 1).sqrt()
        reach = size * length
        round_ = torch.atan2(reach, height) / reach
        direction = mean / length[..., None]
        shortfall = mean_shortfall(
            u, radius, direction, stretch=size * stretch, angle=size * radius
        )
        open_ = torch.log1p(2 * reach / shortfall) / (2 * reach)
        far = torch.where(self.kappa > 0, round_, open_)
        return torch.where(near, series / torch.where(near, height, 1), far)[..., None] * mean

    def lift(self, radius: Tensor) -> tuple[Tensor, Tensor | None]:
        """Lead to twice the stereographic coordinates, which tend to ``u`` when flat."""
        held = self._held_radius(radius)
        return _share(held, radius) * self._ratio(held / 2) / self._cosine(held / 2), None

    def seen_from(self, u: Tensor, origin: Tensor) -> Tensor:
        """See :meth:`Manifold.seen_from` and :mod:`geodm_lightning.geometry.translation`."""
        return translate(self._held(u), self._held(origin), self._law())

    def view(self, radius: Tensor, origin: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Manifold.view` and :func:`geodm_lightning.geometry.translation.view`."""
        held, pole = self._held_radius(radius), self._held_radius(origin)
        share, back = _share(held, radius), _share(pole, origin)
        own, other = view(held, pole, share * back * inner, self._law())
        return share * own, back * other

    def radius_penalty(self, radius: Tensor) -> Tensor:
        r"""Mean of :math:`(k\,\|u\|^2)^2`: radii ``(..., n)`` to ``(...)``; zero when flat.

        A space that may be flat has no radius of curvature to hold to the data. What has to be
        opposed is the growth of a positive curvature, which shrinks every distance; this form
        is ours.
        """
        return (self.kappa * radius.square()).square().mean(-1)

    def clamp_(self) -> None:
        """Put the curvature back into ``[-high, high]``, in place."""
        with torch.no_grad():
            self.kappa.clamp_(-self.largest, self.largest)

    def _law(self) -> Law:
        return Law(self.kappa, self._ratio, self._cosine, self.squared_distance)

    def _held_radius(self, radius: Tensor) -> Tensor:
        """Radii, those beyond the reach of the other two curved spaces moved to it."""
        size = torch.where(self.kappa.abs() > _FLAT, self.kappa.abs(), 1).sqrt()
        limit = torch.where(self.kappa > 0, Spherical.max_angle / size, Hyperbolic.max_angle / size)
        limit = torch.where(self.kappa.abs() > _FLAT, limit, math.inf)
        return torch.where(radius > limit, limit, radius)

    def _held(self, u: Tensor) -> Tensor:
        """Points ``(..., d)``, those too far out moved along their ray."""
        u = at_least_float32(u)
        radius = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        return _share(self._held_radius(radius), radius) * u

    def _ratio(self, x: Tensor) -> Tensor:
        """``sn_k(x) / x`` of lengths within reach."""
        return _sine_ratio(self.kappa * x.square())

    def _cosine(self, x: Tensor) -> Tensor:
        """``cs_k(x) = 1 - 2k sn_k(x/2)^2`` of lengths within reach."""
        return 1 - self.kappa * x.square() / 2 * self._ratio(x / 2).square()


def _sine_ratio(z: Tensor) -> Tensor:
    """``sin(sqrt z)/sqrt z``, and ``sinh`` of ``-z`` below zero."""
    small = z.abs() < RATIO_BOUND**2
    series = polynomial(-torch.where(small, z, 0), RATIO_SERIES)
    x = torch.where(small, 1, z.abs()).sqrt()
    return torch.where(small, series, torch.where(z > 0, torch.sin(x), torch.sinh(x)) / x)


def _arc(z: Tensor) -> Tensor:
    """``arcsin(sqrt z)^2/z``, and ``arcsinh`` of ``-z`` below zero."""
    small = z.abs() < ARC_BOUND
    series = polynomial(torch.where(small, z, 0), ARC_SERIES[1:])
    square = torch.where(small, 1, z.abs())
    x = square.sqrt()
    arc = torch.where(z > 0, Spherical.arcsn(x), torch.asinh(x))
    return torch.where(small, series, arc.square() / square)


def _arctan(z: Tensor) -> Tensor:
    """``arctan(sqrt z)/sqrt z``, and ``artanh`` of ``-z`` below zero, held short of 1."""
    small = z.abs() < ARC_BOUND
    series = polynomial(torch.where(small, z, 0), _ARCTAN_SERIES)
    x = torch.where(small, 0.25, z.abs()).sqrt()
    held = x.clamp(max=1 - torch.finfo(z.dtype).eps)
    return torch.where(small, series, torch.where(z > 0, torch.atan(x), torch.atanh(held)) / x)


def _share(held: Tensor, radius: Tensor) -> Tensor:
    """How far along its ray a point stays: ``held/radius``, exactly 1 where it is not moved."""
    moved = held < radius
    return torch.where(moved, held / torch.where(moved, radius, 1), 1)
