"""Matching of moments: means (DM), means and covariances (DSDM), and their geodesic forms."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.covariances import moment_costs
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError

_COVARIANCE_BALANCE = 2.9  # size of DSDM's loss beside DM's, measured: see its magnitude


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

    min_synthetic: ClassVar[int] = 1

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


class CovarianceMatching(MeanMatching):
    r"""Means as in :class:`MeanMatching` and covariances around them: DSDM in a product.

    .. math:: L_{mean} + \lambda_{cov}\, \frac{m^4}{d} \sum_g w_g\,
        \|Cov(\log_{\bar u_g} v_g) - Cov(\log_{\bar u_g} u_g)\|_F^2

    A covariance needs linear coordinates: those of real and synthetic features on factor
    :math:`g` seen from its real centroid :math:`\bar u_g`. It is unbiased, :math:`d` is the
    width of the features and :math:`m` the scale taken out by :func:`scale_features`. In flat
    space, covariances being blind to the origin, the loss is DSDM's, its history apart
    (:class:`geodm_lightning.matching.history.PrototypeHistory`). The product form is inferred.

    Args:
        covariance_weight: The factor lambda_cov; 50 in DSDM.
        reference_norm: As in :class:`MeanMatching`.

    Raises:
        InputError: If ``covariance_weight`` is negative or not finite, or ``reference_norm``
            is not positive.

    References:
        Li et al., "Diversity-driven synthesis: dataset distillation through DSDM", 2024.
    """

    min_synthetic: ClassVar[int] = 2

    def __init__(self, covariance_weight: float = 50.0, reference_norm: float = 24.7) -> None:
        super().__init__(reference_norm)
        if not 0 <= covariance_weight < math.inf:
            raise InputError(
                f"covariance_weight must not be negative, got {covariance_weight}; use "
                "MeanMatching for means alone"
            )
        self.covariance_weight = covariance_weight

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to DM's on its reference network.

        It is 2.9 there at the default weight, measured on CIFAR-10 with 256 real and 40
        synthetic images per class in the product of all three spaces: 30 times this times
        transport then has 20 % of the loss's gradient. On 1/f noise 1.7 is measured; with
        fewer synthetic images covariances outgrow means, 8.6 with 10 of them.
        """
        return _COVARIANCE_BALANCE * super().magnitude(features)

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Not drawn from: moments have no randomness.

        Returns:
            Losses of shape ``(C,)``; the part of the means has the squared unit of the
            unscaled features, that of the covariances its fourth power.

        Raises:
            InputError: If a class has fewer than two real or two synthetic features.
        """
        costs = moment_costs(features.real, features.synthetic, geometry)
        factor = self.covariance_weight / features.real.shape[-1]
        norm = features.norm
        return norm.square() * costs.means + factor * norm**4 * costs.covariances
