"""Geometry-aware distribution matching: the whole GeoDM loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.ledger import Ledger
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.history import PrototypeHistory
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.types import InputError, MatchingTerms


class Strategy(Protocol):
    """What GeoDM plugs into: a way to match real and synthetic features class by class.

    Attributes:
        min_synthetic: Fewest synthetic images per class it can work with.
    """

    min_synthetic: int

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Unit ``(C,)`` in which the other terms of GeoDM are weighed against it."""

    def __call__(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Loss of each class, ``(C,)``."""


class GeometricMatching(nn.Module):
    r"""A base matching loss and optimal transport in a learnable product geometry.

    .. math::
        L = L_{base} + \lambda_{OT} L_{OT} + \lambda_{curv} L_{radius} - \lambda_{ent} H(w)

    The sum of the first three, learnable curvatures and learnable weights are the GeoDM
    paper's. All coefficients are inferred, so is the form of the radius penalty (on the real
    features, the images being no concern of it), and so is the entropy bonus, without which
    minimising over the weights ends on the factor with the shortest distances.
    With a flat geometry and without transport the loss is that of the base.

    Where the geometry is ``adversarial`` its parameters ascend: see
    :meth:`ascending_parameters`. The regularisers then enter with the opposite sign, so that
    they still hold the geometry while it ascends the rest.

    Args:
        base: Strategy, such as ``MeanMatching`` (DM) or ``CharacteristicMatching`` (NCFM).
        geometry: Product manifold; its parameters are learned by whoever optimises them.
        transport: Transport term, or ``None`` for none.
        transport_weight: Weight of the transport cost at unit feature scale; 30 makes its
            gradient about a fifth of the base's. 0 leaves transport out. This and the next
            two are in units of the base's :meth:`magnitude`, so they hold for any network.
        curvature_weight: Weight of the radius penalty, in use where a curvature is learned.
        entropy_weight: Weight of the entropy of the weights, in use where they are learned. Both
            must be of the size of ``transport_weight``: what they hold off is that shrinking
            the distances makes transport cheap. At 1 they do not hold it off.
        history: Memory of synthetic prototypes (DSDM), or ``None`` for none; whoever trains
            calls its ``allocate`` before the first and ``advance_`` after every iteration.

    Raises:
        InputError: If a weight is negative or not finite.
    """

    def __init__(
        self,
        base: Strategy,
        geometry: ProductManifold,
        transport: TransportMatching | None = None,
        transport_weight: float = 30.0,
        curvature_weight: float = 30.0,
        entropy_weight: float = 30.0,
        history: PrototypeHistory | None = None,
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
        self.history = history
        self.transport_weight = transport_weight
        self.curvature_weight = curvature_weight
        self.entropy_weight = entropy_weight

    def sampler_parameters(self) -> list[nn.Parameter]:
        """Parameters of the sampler of NCFM's frequencies, if there is one."""
        is_sampled = isinstance(self.base, CharacteristicMatching)
        return self.base.ascending_parameters() if is_sampled else []  # type: ignore[attr-defined]

    def geometry_parameters(self) -> list[nn.Parameter]:
        """Curvatures, weights and heads that are being learned, if any."""
        return [p for p in self.geometry.parameters() if p.requires_grad]

    def ascending_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that climb the loss the images descend.

        Whoever optimises turns their gradients round before the step.
        """
        yield from self.sampler_parameters()
        if self.geometry.learning == "adversarial":
            yield from self.geometry_parameters()

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
            generator: Source of the randomness of the base and of transport.
            classes: Rows the history keeps for these classes.
            ledger: Charged with the forward pass, by component.

        Returns:
            The weighted loss and the terms it is made of before they are weighted: ``matching``
            always; ``history`` with a history; ``transport`` and how good its plan is with
            transport; ``radius`` where a curvature and ``entropy`` where the weights are
            learned.
        """
        ledger = ledger or Ledger()
        shares = {}
        with torch.autocast(device_type=real.device.type, enabled=False):
            with ledger.section("geometry"):
                features = scale_features(real, synthetic)
                unit = self.base.magnitude(features)
                matched = self.base(features, self.geometry, generator=generator)
                parts = {"matching": matched}
                past = self._history(features, classes)
                penalties = self._penalties(features)
                signed = -1.0 if self.geometry.learning == "adversarial" else 1.0
                held = sum((w * p for w, p in penalties.values()), start=torch.zeros_like(unit))
                shares["geometry"] = matched + past + signed * unit * held
            if self.history is not None:
                parts["history"] = past
            if self.transport is not None:
                with ledger.section("transport"):
                    terms = self.transport(features, self.geometry, generator=generator)
                    shares["transport"] = self.transport_weight * unit * terms.cost
                parts |= {"transport": terms.cost, **terms.statistics}
        parts |= {name: penalty for name, (_, penalty) in penalties.items()}
        return MatchingTerms(shares, {name: part.detach() for name, part in parts.items()})

    def _history(self, features: ScaledFeatures, classes: slice) -> Tensor:
        """Pull towards remembered prototypes ``(C,)``; takes down those of this iteration."""
        if self.history is None:
            return torch.zeros_like(features.norm)
        term = self.history(features, self.geometry, classes=classes)
        self.history.remember(features, self.geometry, classes=classes)
        return term

    def _penalties(self, features: ScaledFeatures) -> dict[str, tuple[float, Tensor]]:
        """Signed weight and value ``(C,)`` of each regulariser of what is being learned."""
        penalties = {}
        if self.geometry.learn_curvature:
            radius = self.geometry.radius_penalty(features.real)
            penalties["radius"] = (self.curvature_weight, radius)
        if self.geometry.learn_weights:
            entropy = self.geometry.entropy().expand_as(features.norm)
            penalties["entropy"] = (-self.entropy_weight, entropy)
        return penalties
