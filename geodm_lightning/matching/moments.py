"""Matching of means: DM and its geodesic form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError


class MeanMatching(nn.Module):
    r"""Squared geodesic distance between the centroids of real and synthetic features.

    .. math:: m^2 \sum_g w_g\, d_g(\bar u_g, \bar v_g)^2

    with :math:`\bar u_g` the centroid on factor :math:`g` and :math:`m` the scale taken out
    by :func:`scale_features`, which puts the loss back into the unit of DM: in flat space it
    is :math:`\|mean(F_r) - mean(F_s)\|^2`, the DM loss itself, for which its learning rates
    were chosen. That DM is one of the objectives GeoDM serves is known; the centroid form
    follows HDD and is inferred.

    Args:
        reference_norm: Feature norm at which the other terms of GeoDM were weighed against
            this one: that of a random ConvNet-3 of width 128 on 32×32 pixels.

    Raises:
        InputError: If ``reference_norm`` is not positive.

    References:
        Zhao and Bilen, "Dataset condensation with distribution matching", 2023.
        Li et al., "Hyperbolic dataset distillation", 2025.
    """

    def __init__(self, reference_norm: float = 24.7) -> None:
        super().__init__()
        if not 0 < reference_norm < math.inf:
            raise InputError(f"reference_norm must be positive, got {reference_norm}")
        self.reference_norm = reference_norm

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to the reference network.

        The loss grows with the square of the feature norm, unit-scale terms do not: they are
        multiplied by this, so that the balance is the same in every network.
        """
        return (features.norm / self.reference_norm).square()

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Not drawn from: means have no randomness.

        Returns:
            Losses of shape ``(C,)``, in the squared unit of the unscaled features.
        """
        cost = geometry.centroid_cost(features.real, features.synthetic)
        return features.norm.square() * cost
