r"""The law shared by the hyperbolic space and the sphere.

With curvature magnitude :math:`c` and ``sn`` for ``sinh`` or ``sin``, both distances obey

.. math::
    sn^2(\sqrt c\, d/2) = sn^2(\sqrt c\,(a-b)/2)
        + \frac{sn(\sqrt c\, a)}{\sqrt c\, a} \frac{sn(\sqrt c\, b)}{\sqrt c\, b}\, c\, gap / 2 .

Every term is non-negative, so float32 holds where points coincide and far from the origin,
and every factor is a smooth function, so gradients are finite, curvature's included.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.manifold import Manifold, at_least_float32
from geodm_lightning.geometry.translation import Law, translate, view
from geodm_lightning.types import InputError

CURVATURE_RANGE = (0.1, 5.0)  # magnitudes; the range of the GeoDM author's released code

# sinh(x)/x = Q(x^2), sin(x)/x = Q(-x^2); arcsin(sqrt z)^2 = P(z), arcsinh(sqrt z)^2 = -P(-z).
# Below the bounds the first term left out is smaller than a float64 rounding.
RATIO_SERIES, RATIO_BOUND = tuple(1 / math.factorial(2 * k + 1) for k in range(5)), 0.1
ARC_SERIES, ARC_BOUND = (0.0, 1.0, 1 / 3, 8 / 45, 4 / 35, 128 / 1575), 1e-3


class Curved(Manifold):
    """A space of constant non-zero curvature ``sign * exp(log_magnitude)``.

    A point whose angle ``sqrt(c)|u|`` exceeds ``max_angle`` is moved along its ray to that
    angle: distances, ambient and embedded coordinates are those of the moved point.

    Args:
        magnitude: Absolute value of the curvature, in 1/length^2.
        learnable: Whether the curvature is a parameter; otherwise it is a buffer.
        curvature_range: Smallest and largest magnitude allowed.

    Raises:
        InputError: If the range is not two increasing positive numbers, or the magnitude is
            not a number inside it.
    """

    sign: ClassVar[float]
    max_angle: ClassVar[float]
    log_magnitude: Tensor

    def __init__(
        self,
        magnitude: float,
        *,
        learnable: bool = False,
        curvature_range: tuple[float, float] = CURVATURE_RANGE,
    ) -> None:
        super().__init__()
        low, high = check_curvature_range(curvature_range)
        if not (magnitude > 0 and math.isfinite(magnitude)):
            raise InputError(
                f"curvature must be a positive magnitude, got {magnitude}; "
                "the sign comes from the factor (hyperbolic or spherical)"
            )
        if not low <= magnitude <= high:
            raise InputError(
                f"curvature {magnitude} lies outside curvature_range ({low}, {high}); "
                "change one of the two"
            )
        self.curvature_range = (low, high)
        log_magnitude = torch.tensor(math.log(magnitude))
        if learnable:
            self.log_magnitude = nn.Parameter(log_magnitude)
        else:
            self.register_buffer("log_magnitude", log_magnitude)

    @staticmethod
    @abstractmethod
    def sn(x: Tensor) -> Tensor:
        """``sinh`` or ``sin``."""

    @staticmethod
    @abstractmethod
    def cs(x: Tensor) -> Tensor:
        """``cosh`` or ``cos``."""

    @staticmethod
    @abstractmethod
    def arcsn(x: Tensor) -> Tensor:
        """Inverse of :meth:`sn` on ``[0, pi/2]`` or ``[0, inf)``."""

    @property
    def magnitude(self) -> Tensor:
        """Absolute value of the curvature."""
        return self.log_magnitude.exp()

    @property
    def sqrt_magnitude(self) -> Tensor:
        """Inverse radius of curvature."""
        return (self.log_magnitude / 2).exp()

    @property
    def curvature(self) -> Tensor:
        """Signed sectional curvature, a scalar; differentiable when learnable."""
        return self.sign * self.magnitude

    def squared_distance(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """Law at the top of this file; see :meth:`Manifold.squared_distance`."""
        c, angle_a, angle_b = self.magnitude, self.sqrt_magnitude * a, self.sqrt_magnitude * b
        radial = angle_a.clamp(max=self.max_angle) - angle_b.clamp(max=self.max_angle)
        if difference is not None:
            moved = (angle_a > self.max_angle) | (angle_b > self.max_angle)
            radial = torch.where(moved, radial, self.sqrt_magnitude * difference)
        turn = self._ratio(angle_a) * self._ratio(angle_b) * (c / 2)
        return (4 / c) * self._arc_squared(self.sn(radial / 2).square() + turn * gap)

    def expmap0(self, u: Tensor) -> Tensor:
        """Ambient coordinates of normal coordinates ``(..., d)``.

        Returns:
            ``(..., d + 1)``: first the coordinate along the origin (time or pole), which is
            ``1/sqrt(c)`` at the origin, then the ``d`` spatial coordinates.
        """
        u = at_least_float32(u)
        angle = self.sqrt_magnitude * torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        first = self.cs(angle.clamp(max=self.max_angle)) / self.sqrt_magnitude
        return torch.cat([first, self._ratio(angle) * u], dim=-1)

    def seen_from(self, u: Tensor, origin: Tensor) -> Tensor:
        """See :meth:`Manifold.seen_from` and :mod:`geodm_lightning.geometry.translation`."""
        u, origin = self._held(at_least_float32(u)), self._held(at_least_float32(origin))
        return translate(u, origin, self._law())

    def view(self, radius: Tensor, origin: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Manifold.view` and :func:`geodm_lightning.geometry.translation.view`."""
        share, back = self._share(radius), self._share(origin)
        own, other = view(share * radius, back * origin, share * back * inner, self._law())
        return share * own, back * other

    def radius_penalty(self, radius: Tensor) -> Tensor:
        r"""Mean of :math:`(\sqrt c\,\|u\| - 1)^2`: radii ``(..., n)`` to ``(...)``.

        It holds the radius of curvature near the size of the data. The paper regularises the
        curvature by a "deviation from the radius"; this form of it is inferred.
        """
        return (self.curvature.abs().sqrt() * radius - 1).square().mean(-1)

    def clamp_(self) -> None:
        """Put the curvature back into ``curvature_range``, in place."""
        low, high = self.curvature_range
        with torch.no_grad():
            self.log_magnitude.clamp_(math.log(low), math.log(high))

    def _law(self) -> Law:
        return Law(
            self.curvature,
            ratio=lambda length: self._ratio(self.sqrt_magnitude * length),
            cosine=lambda length: self.cs(self.sqrt_magnitude * length),
            squared_distance=self.squared_distance,
        )

    def _held(self, u: Tensor) -> Tensor:
        """Points ``(..., d)``, those beyond ``max_angle`` moved along their ray to it."""
        return self._share(torch.linalg.vector_norm(u, dim=-1, keepdim=True)) * u

    def _share(self, radius: Tensor) -> Tensor:
        """How far along its ray a point stays: exactly 1 where it is not moved."""
        angle = self.sqrt_magnitude * radius
        beyond = angle > self.max_angle
        return torch.where(beyond, self.max_angle / torch.where(beyond, angle, 1), 1)

    def _ratio(self, angle: Tensor) -> Tensor:
        """``sn(angle) / angle``, the numerator held at ``max_angle``."""
        small = angle < RATIO_BOUND
        series = polynomial(-self.sign * torch.where(small, angle, 0).square(), RATIO_SERIES)
        safe = torch.where(small, 1, angle)
        return torch.where(small, series, self.sn(safe.clamp(max=self.max_angle)) / safe)

    def _arc_squared(self, z: Tensor) -> Tensor:
        """``arcsn(sqrt(z))^2``, smooth at zero."""
        small = z < ARC_BOUND
        series = self.sign * polynomial(self.sign * torch.where(small, z, 0), ARC_SERIES)
        return torch.where(small, series, self.arcsn(torch.where(small, 1, z).sqrt()).square())


def check_curvature_range(curvature_range: tuple[float, float]) -> tuple[float, float]:
    """Return the range as two floats.

    Raises:
        InputError: If it is not two finite numbers with ``0 < low <= high``.
    """
    bounds = tuple(float(bound) for bound in curvature_range)
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise InputError(
            f"curvature_range must be two magnitudes with 0 < low <= high, got {bounds}"
        )
    return bounds


def weighted_mean(u: Tensor, weight: Tensor) -> Tensor:
    """Mean ``(..., d)`` of points ``(..., n, d)`` times ``weight (..., n)``, in one product."""
    with torch.autocast(device_type=u.device.type, enabled=False):
        return (weight[..., None, :] @ u)[..., 0, :] / u.shape[-2]


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Evaluate a polynomial by Horner's rule, lowest coefficient first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
