"""A rate that follows the loss, without waiting for the device that computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plateau:
    """Shows the loss of every iteration to a schedule, just before the rate is used again.

    By then it has long come over from a GPU, which need not be idle while it does. The rates are
    those of a schedule that is shown every loss at once.

    Args:
        schedule: Lowers the rate of an optimiser where the loss no longer falls.
    """

    def __init__(self, schedule: ReduceLROnPlateau) -> None:
        self.schedule = schedule
        self._loss: Tensor | None = None
        self._has_come: torch.cuda.Event | None = None

    def watch(self, loss: Tensor) -> None:
        """Take the loss of an iteration, a scalar on any device."""
        self._loss = loss
        if loss.is_cuda:
            kept = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True)
            self._loss = kept.copy_(loss, non_blocking=True)
            self._has_come = torch.cuda.Event()
            self._has_come.record()

    def settle(self) -> None:
        """Let the schedule see the loss that was taken last, once."""
        if self._loss is None:
            return
        if self._has_come is not None:
            self._has_come.synchronize()
        self.schedule.step(self._loss.item())
        self._loss = self._has_come = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule, which has seen every loss."""
        self.settle()
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of the schedule."""
        self.schedule.load_state_dict(state)
