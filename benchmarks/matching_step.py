"""How long one matching step takes, next to the published per-class loop.

    python benchmarks/matching_step.py --output benchmarks/results/matching_step_cpu.json

CIFAR-10 shapes on random pixels: 10 classes, IPC 10, real batch 256, ConvNet-3 of width 128, a
fresh network every step. All variants take turns in one process; a ratio is the median of the
ratios of the turns. How far a step is above what the machine needs at least is in ``floor.py``.
"""

from __future__ import annotations

import os

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kernels import matching
from machine import measure_machine
from steps import Sizes, Steps
from turns import medians, positive, ratio, seconds_of, take_turns, tell
from work import flops_of_step

from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.matching.centroid import CentroidMatching
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.geodm import Strategy
from geodm_lightning.matching.kernels import KernelMatching
from geodm_lightning.matching.moments import CovarianceMatching, MeanMatching
from geodm_lightning.provenance import provenance

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "DM": MeanMatching,
    "HDD": CentroidMatching,
    "M3D": KernelMatching,
    "DSDM": CovarianceMatching,
    "NCFM": CharacteristicMatching,
}


def overheads(steps: Steps, repeats: int) -> dict[str, dict[str, float]]:
    """Compare every strategy in the product with transport to its Euclidean original.

    The two take turns; the ratio is the median of those of the turns. Operations, counted in
    the turn that warms up, know no noise.
    """
    found = {}
    for name, base in STRATEGIES.items():
        flat, curved = steps.ours(base(), geometric=False), steps.ours(base(), geometric=True)
        flops, flops_curved = (sum(flops_of_step(own).values()) for own in (flat, curved))
        turns = [
            [seconds_of(step_of(d), turn, steps.device) for d in (flat, curved)]
            for turn in range(1, repeats + 1)
        ]
        found[name] = {
            "seconds flat": statistics.median(flat for flat, _ in turns),
            "seconds in the product": statistics.median(curved for _, curved in turns),
            "ratio": statistics.median(curved / flat for flat, curved in turns),
            "ratio of operations": flops_curved / flops,
        }
    return found


def step_of(distiller: MatchingDistiller) -> Callable[[int], None]:
    """Return our step in float32, of iterations whose memory the ledger does not trace."""
    return partial(matching.step, distiller, "float32")


def small_steps(device: torch.device, real_batch: int) -> dict[str, Any]:
    """Time steps in both precisions, small ones as bf16 is slow here."""
    sizes = Sizes(real_batch=real_batch, ipc=1)
    geodm = Steps(device, sizes).ours(geometric=True)
    precisions = ("float32", "bf16")
    calls = {precision: partial(matching.step, geodm, precision) for precision in precisions}
    turns = take_turns(calls, device, 3)
    return {
        "real_batch": sizes.real_batch,
        "ipc": sizes.ipc,
        "seconds": medians(turns),
        "ratio bf16 / float32": ratio(turns, "bf16", "float32"),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time all variants in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load = os.getloadavg()[0]  # programs that were running beside this one
    keep_freed_memory()
    steps = Steps(device, Sizes(real_batch=arguments.real_batch, ipc=arguments.ipc))
    geodm, flat = steps.ours(geometric=True), steps.ours(geometric=False)
    variants = {
        "per-class loop (DM)": steps.per_class_loop(),
        "ours (DM)": step_of(flat),
        "ours (GeoDM)": step_of(geodm),
    }
    slow = measure_machine(device).no_bf16
    if slow is None:
        variants["ours (DM, bf16)"] = partial(matching.step, flat, "bf16")
        variants["ours (GeoDM, bf16)"] = partial(matching.step, geodm, "bf16")
    turns = take_turns(variants, device, arguments.repeats)
    result = {
        "shapes": {"classes": 10, "real_batch": arguments.real_batch, "ipc": arguments.ipc},
        "repeats": arguments.repeats,
        "load before": load,
        "seconds": medians(turns),
        "ratio per-class loop / ours (DM)": ratio(turns, "per-class loop (DM)", "ours (DM)"),
        "ratio ours GeoDM / DM": ratio(turns, "ours (GeoDM)", "ours (DM)"),
        "with geometry and transport / the same strategy flat": overheads(steps, arguments.repeats),
    }
    if slow is None:
        for slower in ("per-class loop (DM)", "ours (DM)"):
            result[f"ratio {slower} / ours (DM, bf16)"] = ratio(turns, slower, "ours (DM, bf16)")
    else:
        result["bf16"] = {"why": slow, **small_steps(device, arguments.small_batch)}
    result["provenance"] = provenance(device)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real-batch", type=positive, default=256)
    parser.add_argument("--ipc", type=positive, default=10)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--small-batch", type=positive, default=8, help="for bf16 where it is slow")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
