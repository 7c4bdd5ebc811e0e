r"""What every factor manifold answers.

A point is carried in normal coordinates: as the tangent vector ``u`` at the origin whose
exponential is the point. On a space of constant curvature the distance of two points
follows from their radii ``a = |u|``, ``b = |v|`` and the gap ``ab - <u, v> >= 0``, so one
Gram product serves every factor of a product (see :mod:`geodm_lightning.geometry.curved`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.embedding import Embedding


class Separation(NamedTuple):
    """All that a distance depends on; the shapes broadcast against each other.

    Attributes:
        a: Radius of the first point.
        b: Radius of the second point.
        gap: ``ab - <u, v>``, never negative.
        difference: ``a - b``.
    """

    a: Tensor
    b: Tensor
    gap: Tensor
    difference: Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in its own precision, half precisions raised to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pairwise(u: Tensor, v: Tensor) -> Separation:
    """Separate every point of one set from every point of another by one matrix product.

    The product runs outside autocast, since the gap is a difference. Its absolute error is
    about ``ab`` roundings: use :func:`paired` where points nearly coincide.

    Args:
        u: Normal coordinates, shape ``(..., n, d)``.
        v: Normal coordinates, shape ``(..., m, d)``.

    Returns:
        A separation with ``a (..., n, 1)``, ``b (..., 1, m)`` and the rest ``(..., n, m)``.
    """
    u, v = at_least_float32(u), at_least_float32(v)
    a = torch.linalg.vector_norm(u, dim=-1)[..., :, None]
    b = torch.linalg.vector_norm(v, dim=-1)[..., None, :]
    with torch.autocast(device_type=u.device.type, enabled=False):
        # The smaller set goes first: its gradient is then a product with long rows.
        inner = u @ v.mT if u.shape[-2] <= v.shape[-2] else (v @ u.mT).mT
    return Separation(a, b, non_negative(a * b - inner), a - b)


def paired(u: Tensor, v: Tensor) -> Separation:
    r"""Separate points one by one, to full relative precision where they nearly coincide.

    Nothing large is subtracted: :math:`a - b = \langle u - v, u + v\rangle / (a + b)`, and
    :math:`\|bu - av\|^2 = 2ab \cdot gap` gives the gap of points close to each other,
    :math:`\|u - v\|^2 - (a - b)^2 = 2 \cdot gap` that of the others, the origin included.

    Args:
        u: Normal coordinates, shape ``(..., n, d)``.
        v: Normal coordinates, shape ``(..., n, d)``.

    Returns:
        A separation whose members have shape ``(..., n)``; gap and difference are exactly 0
        for equal points.
    """
    u, v = at_least_float32(u), at_least_float32(v)
    a, b = torch.linalg.vector_norm(u, dim=-1), torch.linalg.vector_norm(v, dim=-1)
    chord = u - v
    difference = (chord * (u + v)).sum(-1) / torch.where(a + b > 0, a + b, 1)
    squared = chord.square().sum(-1)
    close = squared < a * b
    turned = b[..., None] * chord - difference[..., None] * v  # = bu - av
    gap_close = turned.square().sum(-1) / torch.where(close, 2 * a * b, 1)
    gap_far = non_negative(squared - difference.square()) / 2
    return Separation(a, b, torch.where(close, gap_close, gap_far), difference)


def radius_of(u: Tensor) -> Tensor:
    """Radii ``(..., n)`` of points ``(..., n, d)``."""
    return torch.linalg.vector_norm(at_least_float32(u), dim=-1)


def square_root(squared: Tensor) -> Tensor:
    """Square root with a zero gradient at zero."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1).sqrt(), 0)


def non_negative(x: Tensor) -> Tensor:
    """Lift rounding errors below zero and keep their gradient, which a clamp would drop.

    At the origin the gap is zero, rounded to either side, and its slope is not.
    """
    return x + (x.clamp(min=0) - x).detach()


class Manifold(nn.Module, ABC):
    """A space of constant curvature whose points are given by normal coordinates."""

    @property
    def learnable(self) -> bool:
        """Whether the curvature is being learned."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    @abstractmethod
    def curvature(self) -> Tensor:
        """Signed sectional curvature, a scalar; differentiable when learnable."""

    @abstractmethod
    def squared_distance(
        self, a: Tensor, b: Tensor, gap: Tensor, *, difference: Tensor | None = None
    ) -> Tensor:
        """Squared geodesic distance as an elementwise law.

        Args:
            a: Radii of the first points.
            b: Radii of the second points.
            gap: ``ab - <u, v>``.
            difference: ``a - b`` where it is known better than by subtraction.

        Returns:
            Squared distances, of the broadcast shape of the arguments.
        """

    @abstractmethod
    def centroid(self, u: Tensor) -> Tensor:
        """Return the mean point of ``(..., n, d)`` in normal coordinates, ``(..., d)``."""

    @abstractmethod
    def expmap0(self, u: Tensor) -> Tensor:
        """Lead normal coordinates ``(..., d)`` to ambient coordinates."""

    @abstractmethod
    def logmap0(self, x: Tensor) -> Tensor:
        """Lead ambient coordinates back to normal coordinates ``(..., d)``."""

    @abstractmethod
    def lift(self, radius: Tensor) -> tuple[Tensor, Tensor | None]:
        """How a point is embedded: its tangent times a scale, and a height above the origin.

        Both depend on the radius alone, so what is linear in the tangents of many points, a
        product with frequencies say, need not know the curvature.

        Args:
            radius: Radii ``|u|``, shape ``(..., n)``.

        Returns:
            The scale and the height, ``(..., n)`` each; no height where the embedding has no
            coordinate but those of the tangent.
        """

    def embed(self, u: Tensor) -> Tensor:
        """Coordinates in which characteristic functions are taken, see :meth:`lift`.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            ``(..., n, d)``, or ``(..., n, d + 1)`` with the height first.
        """
        return self.embedding(u, radius_of(u)).coordinates()

    def embedding(self, u: Tensor, radius: Tensor) -> Embedding:
        """The same taken apart, of points ``(..., n, d)`` whose radii ``(..., n)`` are known."""
        return Embedding(at_least_float32(u), radius, *self.lift(radius))

    @abstractmethod
    def seen_from(self, u: Tensor, origin: Tensor) -> Tensor:
        """Normal coordinates of points as another point sees them.

        They are the logarithms at ``origin``, carried to the tangent space of the pole by
        parallel transport along the geodesic: lengths are distances from ``origin``, inner
        products those of the metric there.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.
            origin: The point that becomes the origin, shape ``(..., d)``.

        Returns:
            Normal coordinates of shape ``(..., n, d)``; 0 where a point is the origin.
        """

    @abstractmethod
    def view(self, radius: Tensor, origin: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars ``alpha, beta``, ``(..., n)`` each: ``seen_from(u, p) = alpha u + beta p``.

        Args:
            radius: Radii ``|u|``, shape ``(..., n)``.
            origin: Radius ``|p|``, shape ``(..., 1)``.
            inner: Inner products ``<u, p>``, shape ``(..., n)``.
        """

    def radius_penalty(self, radius: Tensor) -> Tensor:
        """What holds a learned curvature to the size of the data.

        Args:
            radius: Distances of points from the origin, shape ``(..., n)``.

        Returns:
            Penalties of shape ``(...,)``; zeros where there is no curvature to learn.
        """
        return torch.zeros_like(radius[..., 0])

    def clamp_(self) -> None:
        """Put the curvature back into its allowed range; nothing to do where it has none."""

    def dist2(self, u: Tensor, v: Tensor) -> Tensor:
        """Squared distances of paired points ``(..., n, d)``: ``(..., n)``, 0 where equal."""
        pair = paired(u, v)
        return self.squared_distance(pair.a, pair.b, pair.gap, difference=pair.difference)

    def dist(self, u: Tensor, v: Tensor) -> Tensor:
        """Distances of paired points ``(..., n, d)``: ``(..., n)``.

        Equal points are exactly 0 apart and receive a zero gradient.
        """
        return square_root(self.dist2(u, v))

    def cdist(self, u: Tensor, v: Tensor) -> Tensor:
        """Distances ``(..., n, m)`` between ``(..., n, d)`` and ``(..., m, d)``."""
        return square_root(self.squared_distance(*pairwise(u, v)[:3]))
