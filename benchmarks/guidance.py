"""What one push by optimal transport costs, beside nothing else.

    OMP_NUM_THREADS=1 python benchmarks/guidance.py --output benchmarks/results/guidance_cpu.json

Random latents of a DiT at 256 px (4 × 32 × 32), 200 real ones of each class, one sample of each of
``n`` classes at a time and ``k`` finished ones. A push happens at 16 of 50 steps. ``begin`` is the
cost of the finished samples, once a round. All take turns in one process; seconds are medians. The
denoiser's share is arithmetic: the products of the 50 steps of a DiT-XL/2 with classifier-free
guidance, 2 × 118.6 GMAC each, at the product rate of this machine, which no network reaches.
"""

from __future__ import annotations

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import product_rate
from turns import medians, take_turns, tell

from geodm_lightning.geometry.product import build_product
from geodm_lightning.guidance import (
    AbsoluteGround,
    DeviationGuidance,
    Guidance,
    ProductGround,
    TransportGuidance,
)
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DenoisingStep

LATENT = (4, 32, 32)
NUM_REAL = 200
BATCHES = (1, 4, 16)
FINISHED = (0, 10, 50)
NUM_STEPS, NUM_GUIDED = 50, 16
FLOP_OF_A_STEP = 2 * 2 * 118.6e9  # DiT-XL/2 at 256 px, both halves of classifier-free guidance


def build_guidances(real: torch.Tensor) -> dict[str, Guidance]:
    """The guidances that need no network."""
    geometry = build_product(["euclidean", "hyperbolic", "spherical"], curvature=1.0)
    grounds = {"absolute": AbsoluteGround(), "product": ProductGround(geometry.to(real.device))}
    found: dict[str, Guidance] = {
        f"transport, {name}": TransportGuidance(real, ground=ground)
        for name, ground in grounds.items()
    }
    return {**found, "deviation": DeviationGuidance()}


def measure(
    num_classes: int, num_finished: int, device: torch.device, *, repeats: int, rate: float
) -> dict[str, Any]:
    """Time all guidances at one shape."""
    generator = keyed_generator(0, "benchmark", num_classes, num_finished)
    shapes = [(num_classes, NUM_REAL), (num_classes, num_finished), (num_classes,)]
    real, memory, latents = (
        torch.randn(*shape, *LATENT, generator=generator).to(device) for shape in shapes
    )
    step = DenoisingStep(35, NUM_STEPS, latents, latents, latents, 0.0056)
    calls: dict[str, Callable[[int], Any]] = {}
    for name, guidance in build_guidances(real).items():
        calls[f"begin, {name}"] = lambda _, guidance=guidance: guidance.begin(memory)
        calls[f"push, {name}"] = lambda _, guidance=guidance: guidance.push(step)
    seconds = medians(take_turns(calls, device, repeats))
    denoiser = NUM_STEPS * FLOP_OF_A_STEP * num_classes / rate
    ours = seconds["begin, transport, absolute"]
    ours += NUM_GUIDED * seconds["push, transport, absolute"]
    return {
        "classes": num_classes,
        "finished": num_finished,
        "seconds": seconds,
        "transport, a round": ours,
        "denoiser at the product rate, a round": denoiser,
        "share of transport": ours / denoiser,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    rate = product_rate(device)
    shapes = [(n, k) for n in BATCHES for k in FINISHED]
    result = {
        "latent": LATENT,
        "real": NUM_REAL,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "product_rate_flops": rate,
        "shapes": [measure(*s, device, repeats=arguments.repeats, rate=rate) for s in shapes],
        "provenance": provenance(device),
    }
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
