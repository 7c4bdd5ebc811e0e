"""The OT loss alone: costs in the product of three spaces, the plan, the gradient."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from steps import FACTORS
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from turns import Meter, clock, medians, take_turns
from work import DISTANCE, FLOAT, Measured, Work, shared_out

from geodm_lightning.geometry.product import ProductManifold, build_product
from geodm_lightning.matching import transport
from geodm_lightning.matching.scaling import scale_features
from geodm_lightning.randomness import keyed_generator

NAME = "OT loss"
WIDTH = 2048  # of the features of the ConvNets at 32, 64 and 128 px
SECTIONED = 3  # losses measured section by section


class Sizes(NamedTuple):
    """Classes, real and synthetic features of each."""

    classes: int
    real_batch: int
    ipc: int


class Loss:
    """Transport between random features, forward and backward."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        generator = keyed_generator(0, "benchmark")
        self.real, synthetic = (
            torch.randn(sizes.classes, n, WIDTH, generator=generator).to(device)
            for n in (sizes.real_batch, sizes.ipc)
        )
        self.synthetic = synthetic.requires_grad_()
        self.geometry: ProductManifold = build_product(
            list(FACTORS), curvature=1.0, learn_curvature=True, learn_weights=True
        ).to(device)
        self.transport = transport.TransportMatching().to(device)

    def __call__(self, turn: int, meter: Meter | None = None) -> None:
        """Make the loss and its gradients; sections are those of a meter."""
        meter = meter or Meter(lambda: 0.0)
        self.synthetic.grad = None
        with meter.section("scale"):
            features = scale_features(self.real, self.synthetic)
        value: Tensor = self.transport(features, self.geometry).cost.sum()
        with meter.section("backward"):
            value.backward()

    def sections(self, meter: Meter, times: int) -> dict[str, float]:
        """Return what the sections of so many losses took together."""
        with ExitStack() as stack:
            stack.enter_context(meter.on(self.geometry, "cost", "costs"))
            stack.enter_context(meter.on(transport, "sinkhorn", "plan"))
            for turn in range(times):
                self(turn, meter)
        return meter.sums()


def measure(
    sizes: Sizes, device: torch.device, *, precision: str, repeats: int
) -> dict[str, Measured]:
    """Time the loss, which is made in float32 alone."""
    assert precision == "float32"
    loss, now = Loss(sizes, device), clock(device)
    seconds = medians(take_turns({NAME: loss}, device, repeats))[NAME]
    began = now()
    sections = loss.sections(Meter(now), SECTIONED)
    whole = now() - began
    with FlopCounterMode(display=False) as counter:
        flops = loss.sections(Meter(counter.get_total_flops), 1)
    return {
        "": Measured(
            seconds,
            shared_out(seconds, sections, whole),
            work(sizes, flops),
            {
                **sizes._asdict(),
                "features": WIDTH,
                "images": sizes.classes * (sizes.real_batch + sizes.ipc),
            },
        )
    }


def work(sizes: Sizes, flops: dict[str, float]) -> dict[str, Work]:
    """Add to the products what is beside them, and the bytes."""
    classes, real, ipc = sizes
    pairs = classes * real * ipc
    distances = DISTANCE * len(FACTORS) * pairs
    seen, learned = classes * real * WIDTH, classes * ipc * WIDTH
    beside = {"scale": 3 * seen + learned, "costs": distances, "plan": pairs, "backward": distances}
    moved = {
        "scale": 2 * (seen + learned),
        "costs": seen + learned + pairs,
        "plan": 2 * pairs,
        "backward": pairs + seen + 2 * learned,
    }
    return {name: Work(flops[name] + beside[name], FLOAT * moved[name]) for name in moved}
