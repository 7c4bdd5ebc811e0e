"""The matching step: real and synthetic images of every class through a fresh network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from steps import FACTORS, Sizes, Steps
from turns import clock, medians, take_turns
from work import DISTANCE, FLOAT, MOMENTUM_STEP, Measured, Work, flops_of_step, shared_out

from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.ledger import Ledger

NAME = "matching step"
FIRST = 1000  # iteration timed first: the ledger traces the memory of an early one
SECTIONED = 1  # iterations measured section by section


def measure(
    sizes: Sizes, device: torch.device, *, precision: str, repeats: int
) -> dict[str, Measured]:
    """Time DM in flat space and GeoDM, DM in three factors with transport, in turns."""
    steps = Steps(device, sizes)
    distillers = {"DM": steps.ours(geometric=False), "GeoDM": steps.ours(geometric=True)}
    works = {name: work(own, sizes) for name, own in distillers.items()}
    calls = {name: partial(step, own, precision) for name, own in distillers.items()}
    seconds = medians(take_turns(calls, device, repeats))
    return {
        name: Measured(
            seconds[name],
            parts(distillers[name], calls[name], seconds[name]),
            works[name],
            {**sizes._asdict(), "images": sizes.classes * (sizes.real_batch + sizes.ipc)},
        )
        for name in calls
    }


def step(distiller: MatchingDistiller, precision: str, turn: int) -> None:
    """Make one iteration."""
    device = distiller.synthetic.pixels.device
    is_bf16 = precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16) if is_bf16 else nullcontext():
        distiller.training_step(FIRST + turn)


def parts(
    distiller: MatchingDistiller, call: Callable[[int], None], seconds: float
) -> dict[str, float]:
    """Divide the seconds of a step by the ledger of a few."""
    device = distiller.synthetic.pixels.device
    distiller.ledger = ledger = Ledger(device)
    now = clock(device)
    began = now()
    for turn in range(SECTIONED):
        call(FIRST + turn)
    return shared_out(seconds, ledger.seconds, now() - began)


def work(distiller: MatchingDistiller, sizes: Sizes) -> dict[str, Work]:
    """Count what a step takes at least; one is made."""
    flops, spec = flops_of_step(distiller), sizes.spec
    pixels = spec.channels * spec.resolution**2
    real, synthetic = (sizes.classes * n for n in (sizes.real_batch, sizes.ipc))
    network = distiller.real.pool.network(0)
    weights = sum(p.numel() for p in network.parameters())
    features = network.num_features
    is_geometric = distiller.matching.transport is not None
    pairs = real * sizes.ipc * len(FACTORS) if is_geometric else 0
    learned = 2 * FLOAT * features * synthetic  # features read, gradients written
    matched = FLOAT * features * real + learned
    moved = {
        "augment": real * (1 + FLOAT) * pixels + 4 * FLOAT * synthetic * pixels,
        "network": FLOAT * (real * (pixels + features) + weights)
        + 2 * FLOAT * synthetic * (pixels + features),
        "geometry": matched,
        "transport": matched if is_geometric else 0,
        "optimiser": 5 * FLOAT * synthetic * pixels,  # images, gradients, moments; two written
    }
    beside = {"transport": 2 * DISTANCE * pairs, "optimiser": MOMENTUM_STEP * synthetic * pixels}
    return {name: Work(flops[name] + beside.get(name, 0), moved[name]) for name in moved}
