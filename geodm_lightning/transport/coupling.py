"""Numbers that describe a coupling of two uniform marginals."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def marginal_error(plan: Tensor) -> Tensor:
    """Total mass by which the row and column sums of plans ``(..., n, m)`` are off: ``(...,)``."""
    num_rows, num_columns = plan.shape[-2:]
    row_error = (plan.sum(-1) - 1 / num_rows).abs().sum(-1)
    column_error = (plan.sum(-2) - 1 / num_columns).abs().sum(-1)
    return row_error + column_error


def relative_entropy(plan: Tensor) -> Tensor:
    """Entropy of plans ``(..., n, m)`` over that of the uniform plan: ``(...,)``, in [0, 1].

    It is 1 for the uniform plan and ``log max(n, m) / log(nm)`` for the sharpest one; a plan
    with a single cell is uniform.
    """
    num_cells = plan.shape[-2] * plan.shape[-1]
    if num_cells == 1:
        return torch.ones_like(plan[..., 0, 0])
    return torch.special.entr(plan).sum((-2, -1)) / math.log(num_cells)


def plan_contrast(plan: Tensor) -> Tensor:
    r"""Total variation between plans and the uniform one, a share of the mass.

    .. math:: \tfrac12 \sum_{ij} |P_{ij} - 1/(nm)|

    Where it is 0 every real point is sent everywhere alike and transport is mean matching:
    below 0.01 the plan is uniform to within 1 % of its mass. The entropy tells this badly, as
    it is near 1 long before. A one-to-one plan of ``n`` points reaches ``1 - 1/n``.

    Args:
        plan: Couplings of total mass 1, shape ``(..., n, m)``.

    Returns:
        Contrasts of shape ``(...,)``, in ``[0, 1)``.

    Example:
        >>> plan_contrast(torch.eye(4) / 4)
        tensor(0.7500)
    """
    num_cells = plan.shape[-2] * plan.shape[-1]
    return (plan - 1 / num_cells).abs().sum((-2, -1)) / 2
