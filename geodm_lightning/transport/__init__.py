"""Costs → plans, values: entropic and exact optimal transport."""

from geodm_lightning.transport.exact import exact_cost, exact_plan
from geodm_lightning.transport.implicit import sinkhorn_plan
from geodm_lightning.transport.sinkhorn import Plan, entropic_cost, sinkhorn, sinkhorn_divergence

__all__ = [
    "Plan",
    "entropic_cost",
    "exact_cost",
    "exact_plan",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_plan",
]
