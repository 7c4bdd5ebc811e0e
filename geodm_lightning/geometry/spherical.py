r"""The sphere of any radius."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from geodm_lightning.geometry.curved import Curved, weighted_mean
from geodm_lightning.geometry.manifold import at_least_float32


class Spherical(Curved):
    r"""Sphere of curvature ``magnitude``, that is of radius :math:`1/\sqrt c`.

    Ambient coordinates put the pole, which is the origin, first. See :class:`Curved` for the
    arguments. Angles from the pole are held 1e-3 short of the antipode, where normal
    coordinates end. The distance of two antipodal points is held a few roundings short of
    ``pi/sqrt(c)``, so its gradient stays finite.
    """

    sign: ClassVar[float] = 1.0
    max_angle: ClassVar[float] = math.pi - 1e-3

    @staticmethod
    def sn(x: Tensor) -> Tensor:
        """``sin``."""
        return torch.sin(x)

    @staticmethod
    def cs(x: Tensor) -> Tensor:
        """``cos``."""
        return torch.cos(x)

    @staticmethod
    def arcsn(x: Tensor) -> Tensor:
        """``asin``, its argument held two roundings below 1."""
        return torch.asin(x.clamp(max=1 - 2 * torch.finfo(x.dtype).eps))

    def logmap0(self, x: Tensor) -> Tensor:
        """Normal coordinates ``(..., d)`` of sphere coordinates ``(..., d + 1)``."""
        x = at_least_float32(x)
        pole, spatial = x[..., :1], x[..., 1:]
        reach = torch.linalg.vector_norm(spatial, dim=-1, keepdim=True)
        safe = torch.where(reach > 0, reach, 1)
        angle = torch.atan2(safe, pole) / (self.sqrt_magnitude * safe)
        return torch.where(reach > 0, angle, 1) * spatial

    def centroid(self, u: Tensor) -> Tensor:
        """Mean of the ambient coordinates, scaled back to the sphere.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            Normal coordinates of the centroid, shape ``(..., d)``; it is unstable only where
            the points balance each other out and no centroid exists.
        """
        u = at_least_float32(u)
        angle = self.sqrt_magnitude * torch.linalg.vector_norm(u, dim=-1)
        pole = self.cs(angle.clamp(max=self.max_angle)).mean(-1, keepdim=True)
        spatial = self.sqrt_magnitude * weighted_mean(u, self._ratio(angle))
        mean = torch.cat([pole, spatial], dim=-1)
        length = torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
        tiny = torch.finfo(mean.dtype).eps
        return self.logmap0(mean / (self.sqrt_magnitude * length.clamp(min=tiny)))

    def lift(self, radius: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Lead to the sphere coordinates seen from the origin; see :meth:`Manifold.lift`.

        The pole coordinate stays, since the spatial ones alone take a point and its mirror
        image across the equator for one. It is measured from the origin,
        :math:`(\cos(\sqrt c\, a) - 1)/\sqrt c`, so that the embedding tends to ``u`` as the
        curvature tends to zero. A translation leaves all chord lengths as they are.
        """
        angle = self.sqrt_magnitude * radius
        half = torch.sin(angle.clamp(max=self.max_angle) / 2)
        return self._ratio(angle), -2 * half.square() / self.sqrt_magnitude
