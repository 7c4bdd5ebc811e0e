"""Geometry-aware distribution matching: the whole GeoDM loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.moments import MeanMatching
from geodm_lightning.matching.scaling import scale_features
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.types import InputError, MatchingTerms


class GeometricMatching(nn.Module):
    r"""A base matching loss and optimal transport in a learnable product geometry.

    .. math::
        L = L_{base} + \lambda_{OT} L_{OT} + \lambda_{curv} L_{radius} - \lambda_{ent} H(w)

    The sum of the first three, learnable curvatures and learnable weights are the GeoDM
    paper's. All coefficients are inferred, so is the form of the radius penalty (on the real
    features, the images being no concern of it), and so is the entropy bonus, without which
    minimising over the weights ends on the factor with the shortest distances.
    With a flat geometry and without transport the loss is that of the base.

    Args:
        base: ``MeanMatching`` (DM) or ``CharacteristicMatching`` (NCFM).
        geometry: Product manifold; its parameters are learned by whoever optimises them.
        transport: Transport term, or ``None`` for none.
        transport_weight: Weight of the transport cost at unit feature scale; 30 makes its
            gradient about a fifth of the base's. 0 leaves transport out. This and the next
            two are in units of the base's :meth:`magnitude`, so they hold for any network.
        curvature_weight: Weight of the radius penalty, in use where a curvature is learned.
        entropy_weight: Weight of the entropy of the weights, in use where they are learned.

    Raises:
        InputError: If a weight is negative or not finite.
    """

    def __init__(
        self,
        base: MeanMatching | CharacteristicMatching,
        geometry: ProductManifold,
        transport: TransportMatching | None = None,
        transport_weight: float = 30.0,
        curvature_weight: float = 1.0,
        entropy_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, weight in (
            ("transport_weight", transport_weight),
            ("curvature_weight", curvature_weight),
            ("entropy_weight", entropy_weight),
        ):
            if not 0 <= weight < math.inf:
                raise InputError(f"{name} must not be negative, got {weight}; 0 turns it off")
        self.base = base
        self.geometry = geometry
        self.transport = transport if transport_weight > 0 else None
        self.transport_weight = transport_weight
        self.curvature_weight = curvature_weight
        self.entropy_weight = entropy_weight

    def forward(
        self, real: Tensor, synthetic: Tensor, *, generator: torch.Generator
    ) -> MatchingTerms:
        """Match synthetic features to real ones, outside autocast.

        Args:
            real: Unscaled features of real images, ``(C, R, d)``.
            synthetic: Unscaled features of synthetic images, ``(C, S, d)``.
            generator: Source of the base's randomness.

        Returns:
            ``total (C,)`` and the terms it is made of before they are weighted: ``matching``
            always; ``transport``, ``plan_entropy`` and ``marginal_error`` with transport;
            ``radius`` where a curvature and ``entropy`` where the weights are learned.
        """
        with torch.autocast(device_type=real.device.type, enabled=False):
            features = scale_features(real, synthetic)
            total = self.base(features, self.geometry, generator=generator)
            unit = self.base.magnitude(features)
            parts = {"matching": total}
            if self.transport is not None:
                terms = self.transport(features, self.geometry)
                total = total + self.transport_weight * unit * terms.cost
                parts["transport"] = terms.cost
                parts["plan_entropy"] = terms.plan_entropy
                parts["marginal_error"] = terms.marginal_error
            if self.geometry.learn_curvature:
                radius = self.geometry.radius_penalty(features.real)
                total = total + self.curvature_weight * unit * radius
                parts["radius"] = radius
            if self.geometry.learn_weights:
                entropy = self.geometry.entropy().expand_as(total)
                total = total - self.entropy_weight * unit * entropy
                parts["entropy"] = entropy
        return MatchingTerms(total, {name: part.detach() for name, part in parts.items()})
