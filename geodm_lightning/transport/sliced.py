r"""Exact transport on the line and on the circle, by sorting.

Slicing projects points to such coordinates, many at a time, and averages the costs. Mass is
counted in units of ``1/L`` with ``L`` the least common multiple of the numbers of points, so
that quantile functions of different numbers of points are aligned in whole numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def line_cost(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared 2-Wasserstein distance between uniform point sets on the line.

    .. math:: W_2^2 = \int_0^1 (F_x^{-1}(q) - F_y^{-1}(q))^2 dq

    Args:
        x: Coordinates, shape ``(..., n)``.
        y: Coordinates in the same unit, shape ``(..., m)``.

    Returns:
        Costs of shape ``(...,)`` in the squared unit, differentiable with the optimal plan
        held fixed, which is exact by the envelope theorem.

    Example:
        >>> line_cost(torch.tensor([0.0, 1.0]), torch.tensor([3.0]))
        tensor(6.5000)
    """
    x, y = x.sort(dim=-1).values, y.sort(dim=-1).values
    return _aligned_cost(x, y, torch.zeros([1] * x.dim(), dtype=torch.long, device=x.device))


def circle_cost(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared 2-Wasserstein distance between uniform point sets on the circle.

    .. math:: W_2^2 = \min_\theta \int_0^1 (F_x^{-1}(q) - F_y^{-1}(q + \theta))^2 dq

    with quantile functions continued by :math:`F^{-1}(q + 1) = F^{-1}(q) + 1`. In
    :math:`\theta`, which says where the circle is cut, the integral is convex and linear
    between multiples of :math:`1/L`: the sign of its slope is bisected, without a gradient,
    until the best cut is found exactly.

    Args:
        x: Coordinates in turns, of any branch, shape ``(..., n)``.
        y: Coordinates in turns, shape ``(..., m)``.

    Returns:
        Costs of shape ``(...,)`` in squared turns, at most 1/4, differentiable with the
        optimal plan held fixed, which is exact by the envelope theorem.

    Example:
        Two points on either side of the branch cut are close.

        >>> circle_cost(torch.tensor([0.95]), torch.tensor([0.05])).round(decimals=4)
        tensor(0.0100)

    References:
        Delon, Salomon and Sobolevski, "Fast transport optimization for Monge costs on the
        circle", 2010; Hundrieser, Klatt and Munk, "The statistics of circular optimal
        transport", 2022.
    """
    if x.shape[-1] > y.shape[-1]:  # the slope takes one term for each point of x
        x, y = y, x
    x, y = ((z - z.detach().round()).sort(dim=-1).values for z in (x, y))
    return _aligned_cost(x, y, _best_cut(x.detach(), y.detach()))


def _aligned_cost(x: Tensor, y: Tensor, cut: Tensor) -> Tensor:
    """Integral of ``(X(q) - Y(q + cut / L))^2`` for sorted ``x`` and ``y``; cuts broadcast.

    The interval [0, L) is parted where either quantile function jumps; parts may be empty.
    """
    n, m = x.shape[-1], y.shape[-1]
    total = math.lcm(n, m)
    jumps_x = torch.arange(0, total, total // n, device=x.device).expand(*cut.shape[:-1], n)
    jumps_y = (torch.arange(0, total, total // m, device=x.device) - cut).remainder(total)
    start = torch.cat([jumps_x, jumps_y], dim=-1).sort(dim=-1).values
    end = torch.cat([start[..., 1:], torch.full_like(start[..., :1], total)], dim=-1)
    index_x = start // (total // n)
    difference = x.take_along_dim(index_x, dim=-1) - _quantile(y, start + cut, total)
    mass = (end - start).to(x.dtype) / total
    return (mass * difference.square()).sum(-1)


def _quantile(y: Tensor, position: Tensor, total: int) -> Tensor:
    """Value of the continued quantile function of sorted ``y`` right of ``position / total``."""
    m = y.shape[-1]
    index = position.div(total // m, rounding_mode="floor")
    return y.take_along_dim(index.remainder(m), dim=-1) + index.div(m, rounding_mode="floor")


def _best_cut(x: Tensor, y: Tensor) -> Tensor:
    """Return the smallest ``cut (..., 1)`` right of which the integral no longer falls.

    Right of a cut every jump of ``X`` gives one term of the slope, a product of two factors
    that are not subtracted from anything large. For sorted coordinates on one branch the slope
    is not positive at ``-2L`` and not negative at ``2L``.
    """
    n = x.shape[-1]
    total = math.lcm(n, y.shape[-1])
    before = torch.cat([x[..., -1:] - 1, x[..., :-1]], dim=-1)
    jumps = torch.arange(0, total, total // n, device=x.device)
    low = torch.full_like(x[..., :1], -2 * total, dtype=torch.long)
    high = torch.full_like(low, 2 * total)
    for _ in range(math.ceil(math.log2(4 * total + 1))):
        middle = (low + high).div(2, rounding_mode="floor")
        target = _quantile(y, jumps + middle, total)
        slope = ((before - x) * (before + x - 2 * target)).sum(-1, keepdim=True)
        falls = slope < 0
        low = torch.where(falls, middle + 1, low)
        high = torch.where(falls, high, middle)
    return high
