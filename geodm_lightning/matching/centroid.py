"""Matching of centroids by their distance: HDD and its product form."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.hyperbolic import Hyperbolic
from geodm_lightning.geometry.manifold import square_root
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError

_BALANCE = 0.13 / 20  # size of the loss at scale 1 beside DM's, measured: see magnitude


class CentroidMatching(nn.Module):
    r"""Geodesic distance between the centroids of real and synthetic features.

    .. math:: \lambda \sqrt{\sum_g w_g\, d_g(\bar u_g, \bar v_g)^2}

    On hyperbolic space alone it is HDD's loss :math:`\lambda d_L` between Lorentz
    centroids, with :math:`k = 1/c` the inverse magnitude of the curvature and
    :math:`d_L = \sqrt k\, arccosh(-\langle\cdot,\cdot\rangle_L / k)`, which is the geodesic
    distance at curvature :math:`-1/k`. Unlike :class:`MeanMatching` the distance is not
    squared: the pull on a class does not fade as its centroids approach each other.

    There features come in their own unit and are held at ``hold`` radii of curvature, as in
    HDD's released code. A random ConvNet-3 puts all of them beyond 10, so that every sample
    lies at exactly that radius and its direction alone counts. In any other space features
    are at unit scale, which is inferred, as the product form is: at 10 radii the hyperbolic
    distance is more than ten times those at unit scale and would leave them no say.

    At DM's rate, which HDD keeps, it moves an image far less than DM does: at unit scale in
    flat space by :math:`\lambda / (2 m \|\bar F_r - \bar F_s\|)`, in the unit of the features
    and with :math:`m` their mean norm. On CIFAR-10 at one image per class that is 1/20 in
    random ConvNets-3 of width 64 and 1/40 at 128; held, 1/17 and 1/35 (measured).

    Args:
        scale: The factor lambda: 20 in HDD on DM; on IDM 100 (CIFAR) and 500 (Tiny-ImageNet).
        hold: Largest distance from the origin on hyperbolic space alone, in radii of
            curvature: 10 in HDD's released code. ``None`` brings features to unit scale there
            too, where their radii differ (inferred).

    Raises:
        InputError: If ``scale`` or ``hold`` is not positive and finite, or ``hold`` lies beyond
            what the hyperbolic factor reaches.

    References:
        Li et al., "Hyperbolic dataset distillation", 2025.
    """

    min_synthetic: ClassVar[int] = 1

    def __init__(self, scale: float = 20.0, hold: float | None = 10.0) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("hold", 1.0 if hold is None else hold)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} must be positive and finite, got {value}")
        if hold is not None and hold > Hyperbolic.max_angle:
            raise InputError(
                f"hold {hold:g} lies beyond the {Hyperbolic.max_angle:g} radii of curvature the "
                "hyperbolic factor reaches; HDD holds at 10"
            )
        self.scale = scale
        self.hold = hold

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to DM's on its reference network.

        Whatever the network, it is 0.13 at ``scale`` 20. Measured on CIFAR-10 with 256 real and
        40 synthetic images per class, random ConvNets-3 of width 128 and the product of all
        three spaces: 30 times this times transport then has 20 % of the loss's gradient. On
        hyperbolic space alone 0.15 is measured, at unit scale 0.09.
        """
        return torch.full_like(features.norm, _BALANCE * self.scale)

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Not drawn from: centroids have no randomness.

        Returns:
            Losses of shape ``(C,)``, without unit; coincident centroids get a zero gradient.
        """
        unit = features.norm[..., None, None]
        real, synthetic = (
            self._centroids(u, unit, geometry) for u in (features.real, features.synthetic)
        )
        return self.scale * square_root(geometry.squared_distance(real, synthetic))

    def _centroids(self, u: Tensor, unit: Tensor, geometry: ProductManifold) -> list[Tensor]:
        """Centroids ``(..., d_g)`` of ``u`` on every factor, held where HDD holds them."""
        every = [factor for _, factor in geometry.named_factors()]
        if self.hold is None or not all(isinstance(factor, Hyperbolic) for factor in every):
            return geometry.centroids(u)
        points = zip(geometry.active_factors(), geometry.coordinates(u), strict=True)
        return [
            space.centroid(_held(unit * own, self.hold / space.sqrt_magnitude))
            for (_, space, _), own in points
            if isinstance(space, Hyperbolic)
        ]


def _held(u: Tensor, length: Tensor) -> Tensor:
    """Points ``(..., n, d)``, those longer than ``length`` moved along their ray to it."""
    norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return u * (length / norm.clamp(min=length))
