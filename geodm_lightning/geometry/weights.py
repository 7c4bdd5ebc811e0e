"""Which factors take part in a product, with what weight, and what of it is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.euclidean import Euclidean
from geodm_lightning.geometry.manifold import Manifold
from geodm_lightning.types import InputError

LEARNING = ("fixed", "joint", "adversarial", "from_real")
SKIP_BELOW = 1e-3


class WeightedFactors(nn.Module):
    r"""Manifolds with one weight each, the weights summing to 1.

    Whose loss moves the parameters, and in which direction, is not decided here: ``learning``
    only tells it to whoever optimises them.

    Args:
        factors: Manifolds by name, in the order of the weights.
        weights: One weight for each factor, non-negative, summing to 1; equal when omitted.
        learn_weights: Whether the weights are the softmax of a parameter that starts at
            their logarithm; otherwise they are fixed and may be zero. A factor with a fixed
            weight of zero is never computed.
        learning: ``joint``, along with the images; ``adversarial``, against them;
            ``from_real``, on real data before the images; or ``fixed``, not at all, whatever
            else is said.
        skip_below: Learned weight under which :meth:`skip_vanished_` leaves a factor out; 0
            never does.

    Raises:
        InputError: If there is no factor, or an argument does not fit.
    """

    weight_logits: Tensor
    fixed_weights: Tensor
    skipped: Tensor

    def __init__(
        self,
        factors: Mapping[str, Manifold],
        *,
        weights: Sequence[float] | None = None,
        learn_weights: bool = False,
        learning: str = "joint",
        skip_below: float = SKIP_BELOW,
    ) -> None:
        super().__init__()
        if not factors:
            raise InputError("factors is empty; name at least one, for example [euclidean]")
        if learning not in LEARNING:
            raise InputError(f"unknown learning {learning!r}; choose from {', '.join(LEARNING)}")
        if not 0 <= skip_below < 1:
            raise InputError(f"skip_below must lie in [0, 1), got {skip_below}; 0 turns it off")
        self.learning, self.skip_below = learning, skip_below
        self._softmax = learn_weights and learning != "fixed"
        values = check_weights(weights, list(factors), positive=self._softmax)
        self.factors = nn.ModuleDict(factors)
        if self._softmax:
            self.weight_logits = nn.Parameter(torch.tensor(values).log())
        else:
            self.register_buffer("fixed_weights", torch.tensor(values))
        self.register_buffer("skipped", torch.zeros(len(values), dtype=torch.bool))
        self._active = self._factors_in_use()
        if learning == "fixed":
            self.freeze_()

    @property
    def weights(self) -> Tensor:
        """Weights of the factors, ``(num_factors,)``, which sum to 1; 0 where left out."""
        if not self._softmax:
            return self.fixed_weights
        if len(self._active) == len(self.factors):
            return self.weight_logits.softmax(-1)
        return self.weight_logits.masked_fill(self.skipped, -math.inf).softmax(-1)

    @property
    def learn_weights(self) -> bool:
        """Whether the weights are being learned."""
        return self._softmax and self.weight_logits.requires_grad

    @property
    def learn_curvature(self) -> bool:
        """Whether the curvature of any factor in use is being learned."""
        return any(factor.learnable for _, factor, _ in self.active_factors())

    def active_factors(self) -> list[tuple[str, Manifold, Tensor]]:
        """Name, manifold and weight of each factor in use, in order."""
        named = self.named_factors()
        weights = self.weights
        return [(*named[i], weights[i]) for i in self._active]

    def named_factors(self) -> list[tuple[str, Manifold]]:
        """Name and manifold of every factor, those left out included."""
        return cast("list[tuple[str, Manifold]]", list(self.factors.items()))

    def weighted_sum(self, terms: Sequence[Tensor]) -> Tensor:
        """Sum of one term per factor in use, each times its weight."""
        weighted = [w * term for (_, _, w), term in zip(self.active_factors(), terms, strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def entropy(self) -> Tensor:
        """Entropy of the weights in nats, a scalar; 0 when one factor has it all."""
        return torch.special.entr(torch.stack([w for _, _, w in self.active_factors()])).sum()

    def freeze_(self) -> None:
        """Learn nothing from now on; every value stays as it is."""
        self.requires_grad_(False)

    def skip_vanished_(self) -> list[str]:
        """Leave out, from now on, the factors whose learned weight has all but vanished.

        They are not computed any more and the softmax is taken over the others, so a weight
        that fell under ``skip_below`` does not come back. The largest weight always stays. The
        choice is part of the state, so a resumed run makes it too. Weights that are not being
        learned are left alone. The weights are read off the device, which waits for it.

        Returns:
            Names of the factors newly left out.
        """
        if not self.learn_weights or self.skip_below == 0:
            return []
        values, names = self.weights.tolist(), list(self.factors)
        largest = max(values)
        gone = [i for i in self._active if values[i] < min(self.skip_below, largest)]
        self.skipped[gone] = True
        self._active = self._factors_in_use()
        return [names[i] for i in gone]

    def state(self) -> dict[str, float]:
        """Curvatures of the curved factors and all weights as numbers, for logs and manifests."""
        curvatures = {
            f"curvature/{name}": factor.curvature.item()
            for name, factor in self.named_factors()
            if not isinstance(factor, Euclidean)
        }
        weights = self.weights.tolist()
        return curvatures | {f"weight/{name}": weights[i] for i, name in enumerate(self.factors)}

    def _factors_in_use(self) -> tuple[int, ...]:
        out = self.skipped if self._softmax else self.fixed_weights == 0
        return tuple(i for i, is_out in enumerate(out.tolist()) if not is_out)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load, and find again which factors are in use; a state without a mask left none out."""
        state_dict.setdefault(f"{prefix}skipped", torch.zeros_like(self.skipped))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._active = self._factors_in_use()


def check_weights(
    weights: Sequence[float] | None, names: list[str], *, positive: bool
) -> list[float]:
    """Return one weight for each name, equal ones when none are given.

    Raises:
        InputError: If they are not as many as the names, negative, not summing to 1, or zero
            where they must be positive.
    """
    if weights is None:
        return [1 / len(names)] * len(names)
    values = [float(weight) for weight in weights]
    if len(values) != len(names):
        raise InputError(f"weights {values} must have one entry for each of {', '.join(names)}")
    if not all(0 <= value < math.inf for value in values):
        raise InputError(f"weights must not be negative, got {values}")
    if abs(sum(values) - 1) > 1e-4:
        raise InputError(f"weights must sum to 1, got {values} with sum {sum(values):g}")
    if positive and min(values) == 0:
        raise InputError(f"learned weights must be positive, got {values}; drop the factor or fix")
    return values
