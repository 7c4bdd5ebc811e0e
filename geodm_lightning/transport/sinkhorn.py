"""Entropic optimal transport, stabilised, batched over all leading axes."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.transport.coupling import marginal_error
from geodm_lightning.transport.rounds import (
    Potentials,
    absorbed,
    log_rounds,
    scaling_rounds,
)
from geodm_lightning.types import InputError
from geodm_lightning.workers import run_alone, run_each

ABSORB_EVERY = 25  # iterations between two looks at the scalings
CORE_SIZE = 640_000  # costs from which a second core pays; below, it waits for its operations


class Plan(NamedTuple):
    """Solution of an entropic transport problem with uniform marginals; holds no gradient.

    Attributes:
        plan: Coupling, ``(..., n, m)``; its columns sum to ``1/m`` exactly, its rows to
            ``1/n`` at convergence.
        f: Dual potential of the rows, ``(..., n)``, in the unit of the costs.
        g: Dual potential of the columns, ``(..., m)``, in the unit of the costs.
        marginal_error: Total mass by which row and column sums are off, ``(...,)``.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    marginal_error: Tensor


def sinkhorn(
    cost: Tensor, *, epsilon: float | Tensor, num_iters: int, tolerance: float = 0.0
) -> Plan:
    r"""Solve entropic optimal transport between uniform marginals.

    .. math::
        \min_P \langle P, C\rangle + \varepsilon\, KL(P \,|\, a \otimes b),
        \qquad P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \varepsilon)

    It runs in float32 or in the precision of the costs if that is higher, whatever autocast says,
    and without a gradient:
    the envelope theorem makes :func:`entropic_cost` differentiable without unrolling. The first
    iteration is made on logarithms, the others are matrix-vector products with the kernel that
    the potentials so far are absorbed in, 25 at a time; a problem so sharp that its kernel leaves
    the range of numbers goes on on logarithms. Every 25 iterations wait for the device once. On a
    CPU few costs are left to one core, and of many problems every core has its own.

    Args:
        cost: Ground costs, shape ``(..., n, m)``.
        epsilon: Entropic temperature in the unit of the costs: a number, or a tensor of the
            leading shape ``(...,)``.
        num_iters: Iterations at most, each of which updates both potentials.
        tolerance: Stop where no problem of the batch is further from its marginals than this
            mass, looked at every 25 iterations; 0 makes all iterations.

    Returns:
        The plan, its potentials and how far it is from its marginals.

    Raises:
        InputError: If ``epsilon`` is not positive and finite, ``num_iters`` is below 1 or
            ``tolerance`` below 0. A temperature on an accelerator is not read.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> sinkhorn(cost, epsilon=0.05, num_iters=10).plan
        tensor([[5.0000e-01, 1.0306e-09],
                [1.0306e-09, 5.0000e-01]])

    References:
        Cuturi, "Sinkhorn distances", 2013; Peyré and Cuturi, "Computational optimal
        transport", 2019, section 4.4 (log domain); Schmitzer, "Stabilized sparse scaling
        algorithms for entropy regularized transport problems", 2019 (absorption).
    """
    _check(epsilon, num_iters, tolerance)
    with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
        cost = cost.to(torch.promote_types(cost.dtype, torch.float32))
        temperature = torch.as_tensor(epsilon, dtype=cost.dtype, device=cost.device)
        temperature = temperature.expand(cost.shape[:-2])
        solve = partial(_solve, num_iters=num_iters, tolerance=tolerance)
        if cost.device.type != "cpu":
            return solve(cost, temperature)
        shares = cost.numel() // CORE_SIZE
        if shares < 2:
            return run_alone(partial(solve, cost, temperature))
        count = min(torch.get_num_threads(), shares)
        if count < 2 or temperature.numel() < 2 or tolerance > 0:  # one stop for all problems
            return solve(cost, temperature)
        batch = cost.shape[:-2]
        split = (cost.flatten(0, -3).chunk(count), temperature.flatten().chunk(count))
        pieces = zip(*split, strict=True)
        solved = run_each(lambda piece: solve(*piece), pieces)
        return Plan(*(torch.cat(parts).unflatten(0, batch) for parts in zip(*solved, strict=True)))


def _solve(cost: Tensor, temperature: Tensor, *, num_iters: int, tolerance: float) -> Plan:
    """Solve all problems together, at temperatures of the leading shape."""
    num_rows, num_columns = cost.shape[-2:]
    temperature = temperature[..., None]
    log_kernel = cost / -temperature[..., None]
    buffer = torch.empty_like(log_kernel)
    potentials = _potentials(log_kernel, num_iters, tolerance, buffer)
    plan = absorbed(log_kernel, potentials, out=buffer).div_(num_rows * num_columns)
    f, g = (potential * temperature for potential in potentials)
    return Plan(plan, f, g, marginal_error(plan))


def _potentials(log_kernel: Tensor, num_iters: int, tolerance: float, buffer: Tensor) -> Potentials:
    """Make the iterations; ``buffer`` is scratch space of the kernel's shape."""
    *batch, num_rows, num_columns = log_kernel.shape
    start = log_kernel.new_zeros(*batch, num_columns)
    if log_kernel.is_cuda and torch.cuda.is_current_stream_capturing():  # nothing may be read
        return log_rounds(log_kernel, start, num_iters, buffer=buffer)
    potentials, done = log_rounds(log_kernel, start, 1, buffer=buffer), 1
    while done < num_iters:
        rounds = min(ABSORB_EVERY, num_iters - done)
        potentials = scaling_rounds(log_kernel, potentials, rounds, buffer=buffer)
        done += rounds
        if tolerance > 0 and done < num_iters:
            plan = absorbed(log_kernel, potentials, out=buffer).div_(num_rows * num_columns)
            if bool((marginal_error(plan) <= tolerance).all()):
                break
    return potentials


def entropic_cost(cost: Tensor, *, epsilon: float | Tensor, num_iters: int) -> Tensor:
    """Transport cost ``<plan, cost>`` of the entropic plan, held fixed in the gradient.

    By the envelope theorem the plan is the gradient of the entropic problem's value, so no
    iteration is unrolled; it is exact at convergence.

    Args:
        cost: Ground costs, shape ``(..., n, m)``.
        epsilon: Entropic temperature; see :func:`sinkhorn`.
        num_iters: Iterations; see :func:`sinkhorn`.

    Returns:
        Costs of shape ``(...,)``, differentiable in ``cost``.
    """
    plan = sinkhorn(cost, epsilon=epsilon, num_iters=num_iters).plan
    return (plan * cost).sum((-2, -1))


def sinkhorn_divergence(
    cost_xy: Tensor,
    cost_xx: Tensor,
    cost_yy: Tensor,
    *,
    epsilon: float | Tensor,
    num_iters: int,
) -> Tensor:
    r"""Debiased entropic transport cost between two uniform point clouds.

    .. math::
        S_\varepsilon(\alpha, \beta) = OT_\varepsilon(\alpha, \beta)
            - \tfrac12 OT_\varepsilon(\alpha, \alpha) - \tfrac12 OT_\varepsilon(\beta, \beta)

    It sees cost matrices, never points: any manifold supplies them. As ``epsilon`` grows it
    becomes squared mean matching in flat space, the DM loss.

    Args:
        cost_xy: Ground costs between the two clouds, shape ``(..., n, m)``.
        cost_xx: Ground costs within the first cloud, shape ``(..., n, n)``.
        cost_yy: Ground costs within the second cloud, shape ``(..., m, m)``.
        epsilon: Entropic temperature, in the unit of the costs; see :func:`sinkhorn`.
        num_iters: Iterations; see :func:`sinkhorn`.

    Returns:
        Tensor of shape ``(...,)``, differentiable in the three costs; 0 when the clouds
        coincide.

    Raises:
        InputError: If ``epsilon`` is not positive.

    Example:
        A cloud translated by ``v`` lies exactly ``|v|^2`` away, at every temperature.

        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> y = x + torch.tensor([3.0, 4.0])
        >>> costs = [torch.cdist(a, b).square() for a, b in [(x, y), (x, x), (y, y)]]
        >>> sinkhorn_divergence(*costs, epsilon=1.0, num_iters=100).round(decimals=3)
        tensor(25.)

    References:
        Feydy et al., "Interpolating between OT and MMD using Sinkhorn divergences", 2019.
    """
    between, within_x, within_y = (
        dual_value(cost, sinkhorn(cost, epsilon=epsilon, num_iters=num_iters))
        for cost in (cost_xy, cost_xx, cost_yy)
    )
    return between - (within_x + within_y) / 2


def dual_value(cost: Tensor, solution: Plan) -> Tensor:
    """Value ``<a, f> + <b, g>`` of the entropic problem, whose gradient is the plan.

    Args:
        cost: Ground costs ``(..., n, m)`` that were solved.
        solution: Their solution by :func:`sinkhorn`.

    Returns:
        Values of shape ``(...,)``: transported cost and entropy, differentiable in ``cost``.
    """
    change = (solution.plan * (cost - cost.detach())).sum((-2, -1))
    return solution.f.mean(-1) + solution.g.mean(-1) + change


def _check(epsilon: float | Tensor, num_iters: int, tolerance: float) -> None:
    """Refuse a temperature or a number of iterations that solves nothing.

    A tensor is computed from costs: where those are NaN the plan is too, for the owner of the
    loss to notice, and where it lies on an accelerator it is not read, which would wait for it.
    """
    if isinstance(epsilon, Tensor):
        wrong = epsilon[epsilon <= 0] if epsilon.device.type == "cpu" else epsilon.new_empty(0)
        refused = [wrong[0].item()] if wrong.numel() else []
    else:
        refused = [] if 0 < epsilon < math.inf else [epsilon]
    if refused:
        raise InputError(f"epsilon must be positive and finite, got {refused[0]}")
    if num_iters < 1:
        raise InputError(f"num_iters must be at least 1, got {num_iters}")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance must be a mass from 0, got {tolerance}")
