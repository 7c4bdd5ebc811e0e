"""Matching by optimal transport alone."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.types import InputError


class OptimalTransport(nn.Module):
    r"""Transport cost between real and synthetic features as the whole matching loss.

    .. math:: m^2 \langle P, C\rangle, \qquad C_{ij} = \sum_g w_g\, d_g(u_i, v_j)^2

    with :math:`m` the scale taken out by :func:`scale_features`, which puts the loss into the
    unit of DM: in flat space and with one synthetic image per class it is the mean squared
    distance of the real features to it, DM's loss and their variance. It is the control that
    says what transport does without a base; nothing of it is published (inferred).

    Args:
        transport: The transport problem and its solver.
        reference_norm: Feature norm at which the loss is 30 times the transport cost, the
            term of GeoDM itself, so that the other terms keep the balance they have there.

    Raises:
        InputError: If ``reference_norm`` is not positive.
    """

    min_synthetic: ClassVar[int] = 1

    def __init__(
        self, transport: TransportMatching, reference_norm: float = math.sqrt(30.0)
    ) -> None:
        super().__init__()
        if not 0 < reference_norm < math.inf:
            raise InputError(f"reference_norm must be positive, got {reference_norm}")
        self.transport = transport
        self.reference_norm = reference_norm

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to 30 times the transport cost.

        A second transport term of weight 30 would therefore double the gradient; leave it out.
        """
        return (features.norm / self.reference_norm).square()

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Source of the slices, where transport is sliced.

        Returns:
            Losses of shape ``(C,)``, in the squared unit of the unscaled features.
        """
        terms = self.transport(features, geometry, generator=generator)
        return features.norm.square() * terms.cost
