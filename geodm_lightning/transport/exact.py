"""Exact optimal transport: the solvers of POT behind one device and dtype door."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_plan(cost: Tensor) -> Tensor:
    """Solve optimal transport between uniform marginals exactly, on the CPU in float64.

    Args:
        cost: Ground costs, shape ``(..., n, m)``, on any device; problems are solved one by
            one.

    Returns:
        An optimal coupling for each problem, ``(..., n, m)``, in the dtype and on the device
        of ``cost``, without a gradient.

    References:
        Flamary et al., "POT: Python optimal transport", 2021 (``ot.emd``).
    """
    import ot  # POT takes seconds to import and only this function needs it

    problems = cost.detach().to("cpu", torch.float64)
    flat = problems.reshape(-1, *cost.shape[-2:]).numpy()
    plans = [torch.as_tensor(ot.emd([], [], problem)) for problem in flat]
    return torch.stack(plans).reshape(cost.shape).to(cost)


def exact_cost(cost: Tensor) -> Tensor:
    """Optimal transport cost ``<plan, cost>`` between uniform marginals.

    Args:
        cost: Ground costs, shape ``(..., n, m)``.

    Returns:
        Costs of shape ``(...,)``; their gradient in ``cost`` is an optimal plan.

    Example:
        >>> exact_cost(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor(0.)
    """
    return (exact_plan(cost) * cost).sum((-2, -1))
