"""Several guidances at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geodm_lightning.guidance.guidance import Guidance
from geodm_lightning.types import DenoisingStep, InputError


class CombinedGuidance:
    """Sum of the pushes of several guidances, each of which sees the same step.

    Args:
        guidances: The guidances; none is allowed and pushes nothing.
    """

    def __init__(self, guidances: Sequence[Guidance]) -> None:
        self.guidances = list(guidances)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Diagnostics ``(n,)`` of the last guided step; of a kind given twice, the last one's."""
        return {key: x for guidance in self.guidances for key, x in guidance.statistics.items()}

    def needs_graph(self, index: int, num_steps: int) -> bool:
        """Whether a guidance differentiates through the diffusion model at this step.

        Raises:
            InputError: If two do: the graph is freed as it is walked through.
        """
        users = [guidance for guidance in self.guidances if guidance.needs_graph(index, num_steps)]
        if len(users) > 1:
            raise InputError(
                f"{len(users)} guidances differentiate through the diffusion model at step "
                f"{index} of {num_steps}; give one of them all surrogates"
            )
        return bool(users)

    def begin(self, memory: Tensor) -> None:
        """Start a round of all; see :meth:`Guidance.begin`."""
        for guidance in self.guidances:
            guidance.begin(memory)

    def push(self, step: DenoisingStep) -> Tensor:
        """Sum ``(n, ch, h, w)`` of the pushes; see :meth:`Guidance.push`."""
        total = torch.zeros_like(step.latents, requires_grad=False)
        for guidance in self.guidances:
            total = total + guidance.push(step)
        return total
