"""How a distillation steps, and how long and wide it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
PlateauFactory = Callable[[Optimizer], ReduceLROnPlateau]


class Optimizers(NamedTuple):
    """Factories of what steps the learned tensors.

    Attributes:
        images: Optimiser of the pixels.
        geometry: Optimiser of curvatures, weights and heads.
        sampler: Optimiser of the sampler of frequencies, None where there is no sampler.
        scheduler: Schedule of the pixels' rate that watches the summed loss of each iteration,
            None for a constant rate.
    """

    images: OptimizerFactory
    geometry: OptimizerFactory
    sampler: OptimizerFactory | None = None
    scheduler: PlateauFactory | None = None


class StepSizes(NamedTuple):
    """How long a run is, how much it holds at once, and how often it reports.

    Attributes:
        num_iterations: Iterations of the whole run.
        classes_per_step: Classes whose activations are held at once; the gradient is
            the same for any value, only memory changes.
        log_every: Iterations averaged into one row of the metrics.
    """

    num_iterations: int
    classes_per_step: int
    log_every: int
