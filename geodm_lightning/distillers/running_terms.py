"""The terms of a loss, added up over classes, iterations and processes until they are logged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geodm_lightning.processes import Processes
from geodm_lightning.types import InputError

PREFIX = "distill/loss"


class RunningTerms:
    """Sums of the loss and its named parts since the last row of the metrics.

    Nothing here waits for the device until :meth:`check_finite`.

    Args:
        processes: Place among the processes of the run.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.sums: dict[str, Tensor] = {}
        self.num_iterations = 0

    def add(self, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Add terms of some classes, ``(C,)`` each."""
        named = {PREFIX: total, **{f"{PREFIX}/{name}": part for name, part in parts.items()}}
        for key, value in named.items():
            summed = value.sum()
            self.sums[key] = self.sums[key] + summed if key in self.sums else summed

    def take_means(self, *, num_classes: int, iteration: int) -> dict[str, float]:
        """Return the mean terms per class and iteration, and begin anew.

        Raises:
            InputError: If a term is not finite; see :meth:`check_finite`.
        """
        scale = num_classes * self.num_iterations
        means = {key: value / scale for key, value in self.check_finite(iteration).items()}
        self.sums, self.num_iterations = {}, 0
        return means

    def check_finite(self, iteration: int) -> dict[str, float]:
        """Stop on a loss that is not finite, before it is logged or saved.

        Args:
            iteration: Iterations made so far.

        Returns:
            The sums of all terms since the last row, over all processes.

        Raises:
            InputError: Naming the term; raised on every process at once.
        """
        if not self.sums:
            return {}
        stacked = self.processes.sum_(torch.stack(list(self.sums.values())).float())
        values = dict(zip(self.sums, stacked.tolist(), strict=True))
        broken = sorted(key for key, value in values.items() if not math.isfinite(value))
        if broken:
            terms = [key for key in broken if key != PREFIX] or broken
            raise InputError(
                f"{', '.join(terms)} is not finite at iteration {iteration}; the last "
                "good checkpoint is kept: lower distiller.image_optimizer.lr or "
                "distiller.geometry_optimizer.lr, or raise transport.epsilon"
            )
        return values

    def state(self) -> dict[str, Tensor]:
        """Return the sums over all processes."""
        return {key: self.processes.sum_(value.clone()) for key, value in self.sums.items()}

    def restore(
        self, state: dict[str, Tensor], *, num_iterations: int, device: torch.device
    ) -> None:
        """Take up sums over all processes: one process goes on with them, the others with zero."""
        share = 1.0 if self.processes.is_main else 0.0
        self.sums = {key: (value * share).to(device) for key, value in state.items()}
        self.num_iterations = num_iterations
