"""How long threads should look for work before they sleep.

    python benchmarks/waiting.py --output benchmarks/results/waiting_cpu.json

Work of short operations and of long ones, in processes that differ in nothing but the rounds a
thread of GNU's OpenMP looks for its next share: alone on the machine, beside two more of the same
and beside a busy program on every core. Milliseconds, and ratios to sleeping at once in the same
turn.
"""

from __future__ import annotations

from geodm_lightning.openmp import SPINS, wait_briefly

wait_briefly()  # before torch is imported

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from kernels import matching, sampling, student, transport
from steps import Sizes
from turns import positive

from geodm_lightning.files import write_json
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance

WORK = {
    "student's step, 10 images": (student, student.Sizes("cifar10", 10)),
    "sampler step, 16 tokens": (sampling, sampling.Sizes("s", (4, 8, 8), 4, 1)),
    "OT loss, 10 × 256 × 10": (transport, transport.Sizes(10, 256, 10)),
    "matching step, 3 classes": (matching, Sizes("cifar10", 3, 256, 10, 3)),
}
BUSY = "while True: pass"


def milliseconds(repeats: int) -> dict[str, float]:
    """Time all work in this process."""
    keep_freed_memory()
    device = torch.device("cpu")
    options = {"precision": "float32", "repeats": repeats}
    return {
        name: 1e3
        * statistics.mean(own.seconds for own in module.measure(sizes, device, **options).values())
        for name, (module, sizes) in WORK.items()
    }


@contextmanager
def beside(programs: list[list[str]]) -> Iterator[None]:
    """Have programs running for as long as the block lasts."""
    running = [subprocess.Popen(own, stdout=subprocess.DEVNULL) for own in programs]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def timed(spins: int, processes: int, repeats: int) -> dict[str, float]:
    """Time the work in fresh processes at once; the mean of them."""
    command = [sys.executable, __file__, "--inside", "--repeats", str(repeats)]
    environment = {**os.environ, "GOMP_SPINCOUNT": str(spins)}
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **options) for _ in range(processes)]
    found = [json.loads(each.communicate()[0].splitlines()[-1]) for each in running]
    return {name: statistics.mean(own[name] for own in found) for name in WORK}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spins", type=int, nargs="+", default=[1000, SPINS, 10000])
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--repeats", type=positive, default=3, help="within a process")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(milliseconds(arguments.repeats)))
        return
    busy = [[sys.executable, "-c", BUSY]] * (os.cpu_count() or 1)
    tried = (0, *arguments.spins)
    rows = []
    for place, processes, programs in (
        ("alone", 1, []),
        ("three at once", 3, []),
        ("beside busy programs", 1, busy),
    ):
        with beside(programs):
            turns = [
                {
                    spins: timed(spins, processes, arguments.repeats)
                    for spins in (0, *arguments.spins)
                }
                for _ in range(arguments.turns)
            ]
        for spins in tried:
            for name in WORK:
                own = {
                    "place": place,
                    "spins": spins,
                    "work": name,
                    "milliseconds": statistics.median(turn[spins][name] for turn in turns),
                    "of sleeping at once": statistics.median(
                        turn[spins][name] / turn[0][name] for turn in turns
                    ),
                }
                rows.append(own)
                print(" ".join(f"{key}: {value}" for key, value in own.items()), flush=True)
    if arguments.output is not None:
        sizes = {"turns": arguments.turns, "repeats": arguments.repeats}
        write_json(
            arguments.output, {**sizes, "rows": rows, "provenance": provenance(torch.device("cpu"))}
        )


if __name__ == "__main__":
    main()
