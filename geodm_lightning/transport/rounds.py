r"""Rounds of Sinkhorn's algorithm: safe ones on logarithms, fast ones on the kernel itself.

A round takes potentials :math:`f, g`, in units of the temperature, to

.. math::
    f_i = \log m - \log \sum_j \exp(g_j - C_{ij} / \varepsilon), \qquad
    g_j = \log n - \log \sum_i \exp(f_i - C_{ij} / \varepsilon).

On logarithms each round reads the costs several times and takes as many exponentials as there are
costs. Scaling takes them once, of the kernel that the potentials so far are absorbed in, and then
makes many rounds of two matrix-vector products each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Largest scaling trusted. A kernel entry below the smallest number of its type is taken for 0; at a
# scaling s that misses at most a share s² times that number of a row or column: 1e-8 in float32.
TRUSTED = {torch.float32: 1e15, torch.float64: 1e100}


class Potentials(NamedTuple):
    """Dual potentials in units of the temperature.

    Attributes:
        f: Of the rows, ``(..., n)``.
        g: Of the columns, ``(..., m)``.
    """

    f: Tensor
    g: Tensor


def absorbed(log_kernel: Tensor, potentials: Potentials, *, out: Tensor) -> Tensor:
    """Write the kernel with potentials absorbed to ``out``: ``nm`` times their plan."""
    torch.add(log_kernel, potentials.f[..., None], out=out)
    return out.add_(potentials.g[..., None, :]).exp_()


def log_rounds(log_kernel: Tensor, g: Tensor, num_rounds: int, *, buffer: Tensor) -> Potentials:
    """Make rounds on logarithms, at any temperature.

    Args:
        log_kernel: ``-cost / epsilon``, shape ``(..., n, m)``.
        g: Potential of the columns to start from, ``(..., m)``.
        num_rounds: Rounds, at least 1.
        buffer: Scratch space of the kernel's shape.

    Returns:
        The potentials after the rounds; columns have their marginals exactly.
    """
    num_rows, num_columns = log_kernel.shape[-2:]
    for _ in range(num_rounds):
        f = math.log(num_columns) - _logsumexp(log_kernel, g[..., None, :], dim=-1, buffer=buffer)
        g = math.log(num_rows) - _logsumexp(log_kernel, f[..., None], dim=-2, buffer=buffer)
    return Potentials(f, g)


def scaling_rounds(
    log_kernel: Tensor, start: Potentials, num_rounds: int, *, buffer: Tensor
) -> Potentials:
    """Make rounds on the kernel, and on logarithms for problems where it leaves its range.

    That is decided problem by problem, so no problem depends on those beside it. Whether any needs
    logarithms is read once from the device.

    Args:
        log_kernel: ``-cost / epsilon``, shape ``(..., n, m)``.
        start: Potentials after at least one round, so that no row or column of the kernel vanishes.
        num_rounds: Rounds, at least 1.
        buffer: Scratch space of the kernel's shape.

    Returns:
        The potentials after the rounds; columns have their marginals exactly.
    """
    num_rows, num_columns = log_kernel.shape[-2:]
    kernel = absorbed(log_kernel, start, out=buffer)
    columns = kernel.new_ones(*kernel.shape[:-2], 1, num_columns)
    for _ in range(num_rounds):
        rows = num_columns / (kernel @ columns.mT)
        columns = num_rows / (rows.mT @ kernel)
    scalings = torch.cat([rows.squeeze(-1), columns.squeeze(-2)], dim=-1)
    trusted = TRUSTED[kernel.dtype]
    within = ((scalings > 1 / trusted) & (scalings < trusted)).all(-1, keepdim=True)
    scaled = Potentials(start.f + rows.squeeze(-1).log(), start.g + columns.squeeze(-2).log())
    if bool(within.all()):
        return scaled
    safe = log_rounds(log_kernel, start.g, num_rounds, buffer=buffer)
    return Potentials(*(torch.where(within, *pair) for pair in zip(scaled, safe, strict=True)))


def _logsumexp(kernel: Tensor, potential: Tensor, *, dim: int, buffer: Tensor) -> Tensor:
    """``logsumexp(kernel + potential, dim)`` that allocates nothing of the kernel's size."""
    torch.add(kernel, potential, out=buffer)
    largest = buffer.amax(dim, keepdim=True)
    total = buffer.sub_(largest).exp_().sum(dim)
    return total.log_().add_(largest.squeeze(dim))
