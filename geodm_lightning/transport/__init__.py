"""Costs → plans, values: entropic, exact and one-dimensional optimal transport."""

from geodm_lightning.transport.coupling import marginal_error, plan_contrast, relative_entropy
from geodm_lightning.transport.exact import exact_cost, exact_plan
from geodm_lightning.transport.implicit import sinkhorn_plan
from geodm_lightning.transport.sinkhorn import (
    Plan,
    dual_value,
    entropic_cost,
    sinkhorn,
    sinkhorn_divergence,
)
from geodm_lightning.transport.sliced import circle_cost, line_cost

__all__ = [
    "Plan",
    "circle_cost",
    "dual_value",
    "entropic_cost",
    "exact_cost",
    "exact_plan",
    "line_cost",
    "marginal_error",
    "plan_contrast",
    "relative_entropy",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_plan",
]
