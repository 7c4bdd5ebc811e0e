"""Matching by optimal transport in the product space."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.matching.slices import Slices
from geodm_lightning.transport.coupling import marginal_error, plan_contrast, relative_entropy
from geodm_lightning.transport.exact import exact_plan
from geodm_lightning.transport.implicit import sinkhorn_plan
from geodm_lightning.transport.sinkhorn import dual_value, sinkhorn
from geodm_lightning.types import InputError

__all__ = ["TransportMatching", "TransportTerms"]

CHOICES = {
    "ground": ("product", "factors", "dominant"),
    "solver": ("sinkhorn", "exact", "sliced"),
    "gradient": ("envelope", "implicit"),
}


class TransportTerms(NamedTuple):
    """Transport between real and synthetic features; only ``cost`` has a gradient.

    Attributes:
        cost: ``(C,)`` transported cost at unit feature scale.
        plan: ``(C, R, S)`` coupling, R being at most ``max_real``; the weighted mean of those
            of the factors, again a coupling, where each has its own; ``None`` for slices.
        statistics: Named diagnostics of the plan, ``(C,)`` each, none for slices:
            ``plan_entropy`` over that of the uniform plan, in [0, 1]; ``marginal_error``, mass
            by which the marginals are off (the worst of all problems that make the cost of a
            factor); ``plan_contrast``, total variation from the uniform plan, which is uniform
            to within 1 % below 0.01. Weighted means where each factor has its own plan.
    """

    cost: Tensor
    plan: Tensor | None
    statistics: dict[str, Tensor]


class TransportMatching(nn.Module):
    r"""Optimal transport cost between real and synthetic features, class by class.

    That GeoDM transports in the product space, by class, entropically and with its own
    regularisation, is known; temperature, iterations and the balanced biased form are
    inferred, and all other forms are ours to compare.

    Args:
        epsilon: Entropic temperature, in units of the mean of the costs a plan is made for.
        num_iters: Sinkhorn iterations.
        max_real: Most real samples transported; the first ones are taken.
        ground: What is transported on: the squared distance of the ``product``, one plan for
            all; each of the ``factors`` by a plan of its own, costing
            :math:`\sum_g w_g OT_g`; or the ``dominant`` factor alone, the one of largest
            weight (the first of equal ones), whose cost is not multiplied by it, so that
            transport does not move the weights.
        solver: ``sinkhorn``; ``exact``, on the CPU problem by problem; or ``sliced``, which
            has no plan and draws directions, for a ground of factors.
        gradient: ``envelope`` holds the plan fixed, which is the gradient of the entropic
            problem's value; ``implicit`` also follows how the plan moves, which is that of
            the transported cost itself.
        debiased: Whether the cost is the Sinkhorn divergence: the entropic value less half of
            those of either set to itself, all at the temperature of the first.
        num_slices: Slices; this and the next two as in :class:`Slices`, for ``sliced`` only.
        hyperbolic_slices: ``horospheres`` or ``geodesics``.
        spherical_slices: ``meridians`` or ``great_circles``.

    Raises:
        InputError: If ``epsilon`` is not positive and finite, a count is below 1, a choice is
            unknown, or choices exclude each other.
    """

    def __init__(
        self,
        epsilon: float = 0.05,
        num_iters: int = 50,
        max_real: int = 256,
        ground: str = "product",
        solver: str = "sinkhorn",
        gradient: str = "envelope",
        debiased: bool = False,
        num_slices: int = 64,
        hyperbolic_slices: str = "horospheres",
        spherical_slices: str = "meridians",
    ) -> None:
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise InputError(f"epsilon must be positive and finite, got {epsilon}")
        for name, count in (("num_iters", num_iters), ("max_real", max_real)):
            if count < 1:
                raise InputError(f"{name} must be at least 1, got {count}")
        _check_choices(ground, solver, gradient, debiased=debiased)
        self.slices = Slices(num_slices, hyperbolic=hyperbolic_slices, spherical=spherical_slices)
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.max_real = max_real
        self.ground = ground
        self.solver = solver
        self.gradient = gradient
        self.debiased = debiased

    def check(self, geometry: ProductManifold) -> None:
        """Refuse a geometry this transport cannot work on.

        Raises:
            InputError: If the solver is ``sliced`` and a factor has no slices.
        """
        if self.solver == "sliced":
            self.slices.check(geometry)

    def forward(
        self,
        features: ScaledFeatures,
        geometry: ProductManifold,
        *,
        generator: torch.Generator | None = None,
    ) -> TransportTerms:
        """Transport the real features of each class to its synthetic ones.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Source of the slices; needed where the solver is ``sliced``.

        Returns:
            Cost, plan and how good and how sharp the plan is.
        """
        real, synthetic = features.real[..., : self.max_real, :], features.synthetic
        if self.solver == "sliced":
            assert generator is not None, "sliced transport draws directions: pass a generator"
            costs = self.slices.costs(geometry, real, synthetic, generator=generator)
            values = self._choose(torch.stack(costs), geometry)
            return TransportTerms(self._combine(values, geometry), None, {})
        values, plan, error = self._solve(geometry, real, synthetic)
        with torch.no_grad():
            statistics = {
                "plan_entropy": relative_entropy(plan),
                "marginal_error": error,
                "plan_contrast": plan_contrast(plan),
            }
            named = {key: self._combine(value, geometry) for key, value in statistics.items()}
            mean_plan = self._combine(plan, geometry)
        return TransportTerms(self._combine(values, geometry), mean_plan, named)

    def _solve(
        self, geometry: ProductManifold, real: Tensor, synthetic: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value ``(G, ...)``, plan and marginal error of each problem."""
        cost = self._ground_cost(geometry, real, synthetic)
        if self.debiased:
            within = [self._ground_cost(geometry, own, own) for own in (real, synthetic)]
            return self._divergence(cost, *within)
        if self.solver == "exact":
            plan = exact_plan(cost)
        elif self.gradient == "implicit":
            plan = sinkhorn_plan(cost, epsilon=self._temperature(cost), num_iters=self.num_iters)
        else:
            plan = sinkhorn(cost, epsilon=self._temperature(cost), num_iters=self.num_iters).plan
        return (plan * cost).sum((-2, -1)), plan.detach(), marginal_error(plan.detach())

    def _ground_cost(self, geometry: ProductManifold, u: Tensor, v: Tensor) -> Tensor:
        """Costs ``(G, ..., n, m)`` of the G problems whose combination is the transport."""
        if self.ground == "product":
            return geometry.cost(u, v)[None]
        return self._choose(torch.stack(geometry.factor_costs(u, v)), geometry)

    def _choose(self, per_factor: Tensor, geometry: ProductManifold) -> Tensor:
        """Keep the factor of largest weight alone where it dominates; no number is read."""
        if self.ground != "dominant":
            return per_factor
        return per_factor.index_select(0, _weights(geometry).argmax(keepdim=True))

    def _combine(self, per_problem: Tensor, geometry: ProductManifold) -> Tensor:
        """Weighted sum over the leading axis of problems, of which there may be one."""
        if self.ground != "factors":
            return per_problem[0]
        return torch.tensordot(_weights(geometry).to(per_problem.dtype), per_problem, dims=1)

    def _temperature(self, cost: Tensor) -> Tensor:
        """Temperature of each problem, in the unit of its costs."""
        mean_cost = cost.detach().mean((-2, -1)).clamp(min=torch.finfo(cost.dtype).eps)
        return self.epsilon * mean_cost

    def _divergence(
        self, between: Tensor, within_real: Tensor, within_synthetic: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sinkhorn divergence of each problem, the plan between the sets, the worst error."""
        costs, epsilon = (between, within_real, within_synthetic), self._temperature(between)
        solutions = [sinkhorn(cost, epsilon=epsilon, num_iters=self.num_iters) for cost in costs]
        values = [dual_value(*problem) for problem in zip(costs, solutions, strict=True)]
        errors = torch.stack([solution.marginal_error for solution in solutions])
        return values[0] - (values[1] + values[2]) / 2, solutions[0].plan, errors.amax(0)


def _weights(geometry: ProductManifold) -> Tensor:
    """Weights of the factors in use, ``(G,)``."""
    return torch.stack([weight for _, _, weight in geometry.active_factors()])


def _check_choices(ground: str, solver: str, gradient: str, *, debiased: bool) -> None:
    """Refuse a choice that is unknown and choices that exclude each other."""
    for name, value in (("ground", ground), ("solver", solver), ("gradient", gradient)):
        if value not in CHOICES[name]:
            raise InputError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
    if debiased and solver != "sinkhorn":
        raise InputError(
            f"debiased=true needs solver=sinkhorn, got {solver!r}, by which a set is at no "
            "distance from itself: there is no bias to take off"
        )
    if gradient == "implicit" and solver != "sinkhorn":
        raise InputError(
            f"gradient=implicit needs solver=sinkhorn, got {solver!r}, whose plan does not move "
            "with small changes; choose envelope"
        )
    if gradient == "implicit" and debiased:
        raise InputError(
            "gradient=implicit excludes debiased=true: the envelope gradient of the Sinkhorn "
            "divergence is exact; choose one of them"
        )
    if solver == "sliced" and ground == "product":
        raise InputError(
            "solver=sliced excludes ground=product: slices lie on single factors; choose "
            "ground=factors or dominant"
        )
