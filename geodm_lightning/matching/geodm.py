"""Geometry-aware distribution matching: the whole GeoDM loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.ledger import Ledger
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.moments import MeanMatching
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
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
        self,
        real: Tensor,
        synthetic: Tensor,
        *,
        generator: torch.Generator,
        classes: slice = slice(None),
        ledger: Ledger | None = None,
    ) -> MatchingTerms:
        """Match synthetic features to real ones, outside autocast.

        Args:
            real: Unscaled features of real images, ``(C, R, d)``.
            synthetic: Unscaled features of synthetic images, ``(C, S, d)``.
            generator: Source of the base's randomness.
            classes: Which classes of this process these are, for what is remembered of them.
            ledger: Charged with the forward pass, by component.

        Returns:
            The weighted loss and the terms it is made of before they are weighted: ``matching``
            always; ``history`` with a history; ``transport`` and how good its plan is with
            transport; ``radius`` where a curvature and ``entropy`` where the weights are
            learned.
        """
        ledger = ledger or Ledger()
        with torch.autocast(device_type=real.device.type, enabled=False):
            with ledger.section("geometry"):
                features = scale_features(real, synthetic)
                unit = self.base.magnitude(features)
                matched = self.base(features, self.geometry, generator=generator)
                penalty, penalties = self._penalty(features)
                shares = {"geometry": matched + unit * penalty}
            parts = {"matching": matched}
            if self.transport is not None:
                with ledger.section("transport"):
                    terms = self.transport(features, self.geometry)
                    shares["transport"] = self.transport_weight * unit * terms.cost
                parts |= {
                    "transport": terms.cost,
                    "plan_entropy": terms.plan_entropy,
                    "marginal_error": terms.marginal_error,
                }
        parts |= penalties
        return MatchingTerms(shares, {name: part.detach() for name, part in parts.items()})

    def _penalty(self, features: ScaledFeatures) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted regularisers of the geometry ``(C,)`` in units of the base, and their parts."""
        weighted = torch.zeros_like(features.norm)
        parts = {}
        if self.geometry.learn_curvature:
            parts["radius"] = self.geometry.radius_penalty(features.real)
            weighted = weighted + self.curvature_weight * parts["radius"]
        if self.geometry.learn_weights:
            parts["entropy"] = self.geometry.entropy().expand_as(features.norm)
            weighted = weighted - self.entropy_weight * parts["entropy"]
        return weighted, parts
