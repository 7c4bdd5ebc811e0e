r"""Entropic plans that are differentiable functions of the costs.

With row and column sums :math:`a, b` the plan obeys :math:`P 1 = a` and :math:`P^T 1 = b`.
Differentiating both at the fixed point, the gradient :math:`G` of a function of the plan
becomes one of the costs,

.. math::
    \frac{\partial L}{\partial C} = \frac{P}{\varepsilon} \odot (\alpha 1^T + 1\beta^T - G),

where :math:`\alpha, \beta` are the :math:`P`-weighted least-squares fit of :math:`G` by rows
and columns. No iteration is unrolled, so memory does not grow with their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodm_lightning.transport.sinkhorn import sinkhorn

_RIDGE = 64  # roundings added to the Laplacian, whose eigenvalues are of order 1


def sinkhorn_plan(cost: Tensor, *, epsilon: float | Tensor, num_iters: int) -> Tensor:
    """Entropic plan between uniform marginals, differentiable in the costs.

    Any function of the plan may be differentiated, once, by the implicit function theorem.
    The gradient is exact at convergence, like the plan itself, and its rows and columns sum
    to zero: a cost added to a whole row or column leaves the plan as it is.

    Args:
        cost: Ground costs, shape ``(..., n, m)``.
        epsilon: Entropic temperature in the unit of the costs, a number or ``(...,)``; taken
            for a constant even where it was computed from the costs.
        num_iters: Iterations; see :func:`~geodm_lightning.transport.sinkhorn.sinkhorn`.

    Returns:
        Plan of shape ``(..., n, m)``, in float32 at least.

    Raises:
        InputError: If ``epsilon`` or ``num_iters`` solves nothing.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
        >>> plan = sinkhorn_plan(cost, epsilon=1.0, num_iters=50)
        >>> torch.autograd.grad(plan[0, 0], cost)[0].round(decimals=4)
        tensor([[-0.0492,  0.0492],
                [ 0.0492, -0.0492]])

    References:
        Luise et al., "Differential properties of Sinkhorn approximation for learning with
        Wasserstein distance", 2018.
    """
    return _ImplicitPlan.apply(cost, epsilon, num_iters)


class _ImplicitPlan(torch.autograd.Function):
    """The plan forward, the adjoint of its fixed point backward."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, epsilon: float | Tensor, num_iters: int) -> Tensor:
        plan = sinkhorn(cost, epsilon=epsilon, num_iters=num_iters).plan
        ctx.save_for_backward(plan, torch.as_tensor(epsilon, dtype=plan.dtype, device=plan.device))
        ctx.cost_dtype = cost.dtype
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        plan, epsilon = ctx.saved_tensors
        fit = _fit_potentials(plan, gradient)
        moved = plan * (fit - gradient) / epsilon[..., None, None]
        return moved.to(ctx.cost_dtype), None, None


def _fit_potentials(plan: Tensor, target: Tensor) -> Tensor:
    r"""Return the ``P``-weighted least-squares fit of ``target`` by ``rows + columns``.

    Eliminating the larger side leaves the Schur complement :math:`diag(b) - P^T diag(1/a) P`,
    which is the Laplacian of a graph on the smaller side: written with its diagonal as the sum
    of the other entries, nothing large is subtracted and it stays positive semidefinite. A
    ridge of some roundings fixes its null directions, the constant and, where a sharp plan
    falls into components, one for each; the fit does not depend on them.
    """
    if plan.shape[-2] < plan.shape[-1]:
        return _fit_potentials(plan.mT, target.mT).mT
    num_columns = plan.shape[-1]
    shares = plan / plan.sum(-1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    row_means = (shares * target).sum(-1, keepdim=True)
    residual = num_columns * (plan * (target - row_means)).sum(-2)

    links = num_columns * (plan.mT @ shares)
    links = links - torch.diag_embed(links.diagonal(dim1=-2, dim2=-1))
    ridge = _RIDGE * torch.finfo(plan.dtype).eps
    system = torch.diag_embed(links.sum(-1) + ridge) - links
    columns, _ = torch.linalg.solve_ex(system, residual[..., None])
    return row_means - shares @ columns + columns.mT
