"""A moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


class WeightAverage:
    r"""Exponential moving average of the parameters of a network.

    .. math:: a \leftarrow d_k a + (1 - d_k) w, \qquad d_k = \min(d, (1 + k) / (10 + k))

    with :math:`k` the steps already averaged. The average starts at the weights it is made of,
    which the first steps forget. Buffers, such as the statistics of batch norms, are left alone.

    Args:
        network: The network; its parameters are read where they are.
        decay: Share ``d`` of the average that is kept at a step, in ``[0, 1)``.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._num_steps = 0
        self._weights = list(network.parameters())
        self._average = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights into the average."""
        kept = min(self._decay, (1 + self._num_steps) / (10 + self._num_steps))
        for average, weight in zip(self._average, self._weights, strict=True):
            average.lerp_(weight, 1 - kept)
        self._num_steps += 1

    @torch.no_grad()
    def copy_to_network(self) -> None:
        """Put the average in the place of the weights."""
        for average, weight in zip(self._average, self._weights, strict=True):
            weight.copy_(average)
