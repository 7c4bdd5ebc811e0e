"""What every guidance offers, and the window of the schedule in which it pushes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from geodm_lightning.types import DenoisingStep, InputError

WINDOW = (0.6, 0.9)  # steps 30 to 45 of 50: IGD and DMGD


class Guidance(ABC):
    """Pushes the samples of several classes, one sample of each class at a time.

    A round makes one sample of every class: row ``i`` of all tensors belongs to the ``i``-th
    class of the guidance, and no row sees another. Between rounds :meth:`begin` tells what is
    finished, so that a guidance may be cumulative within a class.

    Args:
        scale: Strength of the push; its unit is the guidance's. At 0 it is switched off.
        window: First and last share of the schedule at which to push, both included: a step
            is guided where ``window[0] <= index / num_steps <= window[1]``.

    Attributes:
        name: Prefix of the statistics.
        statistics: Named diagnostics of the last guided step, one value per class ``(n,)``,
            empty before it. ``NAME/push`` is the root mean square of the push.

    Raises:
        InputError: If the scale is negative or not finite, or the window is not an interval
            in [0, 1].
    """

    name: ClassVar[str]

    def __init__(self, *, scale: float, window: tuple[float, float]) -> None:
        if not 0 <= scale < math.inf:
            raise InputError(f"scale must be at least 0 and finite, got {scale}")
        low, high = window
        if not 0 <= low <= high <= 1:
            raise InputError(f"window must be two growing shares in [0, 1], got {tuple(window)}")
        self.scale = scale
        self.window = (low, high)
        self.statistics: dict[str, Tensor] = {}

    def guides(self, index: int, num_steps: int) -> bool:
        """Whether the step ``index`` of ``num_steps`` is pushed."""
        low, high = self.window
        return self.scale > 0 and low <= index / num_steps <= high

    def needs_graph(self, index: int, num_steps: int) -> bool:
        """Whether :meth:`push` differentiates through the diffusion model at this step."""
        return False

    @abstractmethod
    def begin(self, memory: Tensor) -> None:
        """Start a round.

        Args:
            memory: ``(n, k, ch, h, w)`` finished samples of each class, oldest first; ``k`` is
                0 in the first round, which need not be announced.
        """

    def push(self, step: DenoisingStep) -> Tensor:
        """What is to be subtracted from the result of a step.

        Args:
            step: The step, one sample for each class; it is left as it is.

        Returns:
            Push ``(n, ch, h, w)`` without gradient; zeros outside the window.
        """
        if not self.guides(step.index, step.num_steps):
            return torch.zeros_like(step.latents, requires_grad=False)
        push = self.scale * self._direction(step).to(step.latents.dtype)
        self.statistics[f"{self.name}/push"] = root_mean_square(push)
        return push

    @abstractmethod
    def _direction(self, step: DenoisingStep) -> Tensor:
        """Push ``(n, ch, h, w)`` of scale 1 at a guided step, without gradient."""


def root_mean_square(x: Tensor) -> Tensor:
    """Root mean square of each row of ``(n, ...)``: ``(n,)``."""
    return x.flatten(1).square().mean(1).sqrt()


def normalised(x: Tensor) -> Tensor:
    """Rows of ``(n, ...)`` brought to a root mean square of 1; rows of zeros stay zeros."""
    size = root_mean_square(x)
    return x / torch.where(size > 0, size, 1).reshape(-1, *[1] * (x.dim() - 1))


def check_memory(memory: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse finished samples ``(n, k, ch, h, w)`` that do not belong to ``(n, ch, h, w)``.

    Raises:
        InputError: If classes or the shape of a sample differ.
    """
    if memory.dim() != len(shape) + 1 or (memory.shape[0], *memory.shape[2:]) != shape:
        expected = (shape[0], "k", *shape[1:])
        raise InputError(
            f"memory must hold finished samples {expected} of the classes of this guidance, "
            f"got {tuple(memory.shape)}"
        )
