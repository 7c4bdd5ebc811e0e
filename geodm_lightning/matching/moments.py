"""Matching of means: DM and its geodesic form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures


class MeanMatching(nn.Module):
    r"""Squared geodesic distance between the centroids of real and synthetic features.

    .. math:: m^2 \sum_g w_g\, d_g(\bar u_g, \bar v_g)^2

    with :math:`\bar u_g` the centroid on factor :math:`g` and :math:`m` the scale taken out
    by :func:`scale_features`, which puts the loss back into the unit of DM: in flat space it
    is :math:`\|mean(F_r) - mean(F_s)\|^2`, the DM loss itself, for which its learning rates
    were chosen. That DM is one of the objectives GeoDM serves is known; the centroid form
    follows HDD and is inferred.

    References:
        Zhao and Bilen, "Dataset condensation with distribution matching", 2023.
        Li et al., "Hyperbolic dataset distillation", 2025.
    """

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
