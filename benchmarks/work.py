"""What work takes at least: operations and bytes, counted without doing it.

Operations are those of products and convolutions in their direct form, as PyTorch counts them on
tensors without data, and what it does not count by formula. A convolution by fewer
multiplications (Winograd's) may so be faster than the floor. Bytes are what a component cannot
avoid to move: what it is given and what it hands on, weights included, each once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from turns import Meter

from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.ledger import COMPONENTS, Ledger
from geodm_lightning.networks.network import Network
from geodm_lightning.types import DatasetSpec

FLOAT = 4  # bytes
NORMALISATION = 9  # operations per number: instance norm with its moments 7, ReLU 1, pooling 1
DISTANCE = 12  # operations per pair and factor: a law of cosines, each function counted as one
MOMENTUM_STEP = 6  # operations per number: weight decay 2, momentum 2, step 2


class Work(NamedTuple):
    """What something takes at least.

    Attributes:
        flops: Operations on floating-point numbers.
        bytes: Bytes read and written.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: Work) -> Work:
        """Return the work of both."""
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def total(parts: Mapping[str, Work]) -> Work:
    """Return the work of all components."""
    whole = Work()
    for part in parts.values():
        whole = whole.plus(part)
    return whole


class Measured(NamedTuple):
    """What some work took, and what it takes at least.

    Attributes:
        seconds: Median of the turns, nothing inside them being waited for.
        parts: Seconds of each component, forward and backward: its share of turns that were
            measured section by section, times ``seconds``; ``rest`` is what no section covers.
        work: What each component takes at least.
        sizes: What was measured on, for readers; ``images`` is how many it took.
    """

    seconds: float
    parts: dict[str, float]
    work: dict[str, Work]
    sizes: dict[str, Any]


def shared_out(seconds: float, sections: Mapping[str, float], whole: float) -> dict[str, float]:
    """Divide seconds among components as sections of a whole divide it, with what is left.

    Example:
        >>> shared_out(6.0, {"network": 2.0}, 3.0)
        {'network': 4.0, 'rest': 2.0}
    """
    parts = {name: seconds * own / whole for name, own in sections.items()}
    return {**parts, "rest": max(0.0, seconds - sum(parts.values()))}


def network_flops(
    network: Network, spec: DatasetSpec, *, trains: bool, num_images: int = 2
) -> tuple[float, float]:
    """Count a network's operations for one image.

    Args:
        network: A network whose convolutions are followed by a group norm, ReLU and pooling; it
            is copied.
        spec: Shape of its images.
        trains: Whether gradients are those of the weights, under a loss on the logits, or those
            of the images, under one on the features.
        num_images: Images that are counted and divided by.

    Returns:
        Those of the forward pass and those of the backward pass, to the gradients asked for.
    """
    ghost = copy.deepcopy(network).to("meta").requires_grad_(trains)
    shape = (num_images, spec.channels, spec.resolution, spec.resolution)
    images = torch.empty(shape, device="meta", requires_grad=not trains)
    with Convolved() as convolved, FlopCounterMode(display=False) as counter:
        answers = ghost(images) if trains else ghost.embed(images)
        forward = counter.get_total_flops()
        answers.sum().backward()
        both = counter.get_total_flops()
    beside = NORMALISATION * convolved.numbers
    return (forward + beside) / num_images, (both - forward + 2 * beside) / num_images


class Convolved(TorchDispatchMode):
    """Counts the numbers that convolutions put out, which are then normalised and pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what comes out of a convolution."""
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.numbers += result.numel()
        return result


class CountingLedger(Ledger):
    """Counts the operations of products by component instead of timing.

    Args:
        counter: PyTorch's counter, open while iterations are made.
    """

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.meter = Meter(counter.get_total_flops)

    def section(self, component: str) -> AbstractContextManager[None]:
        """Count the operations of a block for ``component``."""
        return self.meter.section(component)


def flops_of_step(distiller: MatchingDistiller, iteration: int = 0) -> dict[str, float]:
    """Count the operations of one matching step by component; the step is made.

    Args:
        distiller: Without calibration; its stored images are whole ones.
        iteration: Which step.
    """
    ledger = distiller.ledger
    with FlopCounterMode(display=False) as counter:
        distiller.ledger = counting = CountingLedger(counter)
        distiller.training_step(iteration)
    distiller.ledger = ledger
    real, spec = distiller.real, distiller.real.table.spec
    forward, backward = network_flops(real.pool.network(iteration), spec, trains=False)
    num_real = real.draw(iteration).indices.numel()
    num_synthetic = distiller.synthetic.pixels.shape[:2].numel()
    network = (num_real + num_synthetic) * forward + num_synthetic * backward
    return {**dict.fromkeys(COMPONENTS, 0.0), **counting.meter.sums(), "network": network}
