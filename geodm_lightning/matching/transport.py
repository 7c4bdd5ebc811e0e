"""Matching by optimal transport in the product space."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.transport.sinkhorn import sinkhorn
from geodm_lightning.types import InputError


class TransportTerms(NamedTuple):
    """Transport between real and synthetic features; only ``cost`` has a gradient.

    Attributes:
        cost: ``(C,)`` transported cost at unit feature scale.
        plan: ``(C, R, S)`` entropic plan, R being at most ``max_real``.
        marginal_error: ``(C,)`` mass by which the marginals of the plan are off.
        plan_entropy: ``(C,)`` entropy of the plan over that of the uniform one, in [0, 1].
    """

    cost: Tensor
    plan: Tensor
    marginal_error: Tensor
    plan_entropy: Tensor


class TransportMatching(nn.Module):
    """Entropic optimal transport cost between real and synthetic features, class by class.

    The ground cost is the squared distance of the product manifold. That GeoDM transports in
    the product space, by class and with its own regularisation, is known; temperature,
    iterations and the balanced biased form are inferred.

    Args:
        epsilon: Entropic temperature, in units of the class's mean cost.
        num_iters: Sinkhorn iterations.
        max_real: Most real samples transported; the first ones are taken.

    Raises:
        InputError: If ``epsilon`` is not positive and finite, or a count is below 1.
    """

    def __init__(self, epsilon: float = 0.05, num_iters: int = 50, max_real: int = 256) -> None:
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise InputError(f"epsilon must be positive and finite, got {epsilon}")
        for name, count in (("num_iters", num_iters), ("max_real", max_real)):
            if count < 1:
                raise InputError(f"{name} must be at least 1, got {count}")
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.max_real = max_real

    def forward(self, features: ScaledFeatures, geometry: ProductManifold) -> TransportTerms:
        """Transport the real features of each class to its synthetic ones.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.

        Returns:
            Cost, plan and how good and how sharp the plan is.
        """
        cost = geometry.cost(features.real[..., : self.max_real, :], features.synthetic)
        mean_cost = cost.detach().mean((-2, -1)).clamp(min=torch.finfo(cost.dtype).eps)
        solution = sinkhorn(cost, epsilon=self.epsilon * mean_cost, num_iters=self.num_iters)
        return TransportTerms(
            cost=(solution.plan * cost).sum((-2, -1)),
            plan=solution.plan,
            marginal_error=solution.marginal_error,
            plan_entropy=relative_entropy(solution.plan),
        )


def relative_entropy(plan: Tensor) -> Tensor:
    """Entropy of plans ``(..., n, m)`` over that of the uniform plan: ``(...,)``, in [0, 1].

    It is 1 for the uniform plan and ``log max(n, m) / log(nm)`` for the sharpest one; a plan
    with a single cell is uniform.
    """
    num_cells = plan.shape[-2] * plan.shape[-1]
    if num_cells == 1:
        return torch.ones_like(plan[..., 0, 0])
    return torch.special.entr(plan).sum((-2, -1)) / math.log(num_cells)
