"""How long a command takes to answer, and a run to take its first step.

    python benchmarks/startup.py --output benchmarks/results/startup_cpu.json

Every command is started as a user would, in a process of its own, in turns. The first step is that
of the quick start, ``python experiments/run.py``: from the start of the process until the run has
written the loss of its first iteration, when it is ended. Its floor are the imports without which
nothing is trained.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from turns import tell

from geodm_lightning.command_line import CONFIGS
from geodm_lightning.provenance import provenance

QUESTIONS = (
    "run.py --help",
    "run.py --list",
    "run.py --cfg job",
    "run.py +experiment=cifar10_ipc10 --cfg job",
    "evaluate.py --help",
    "diagnose.py --help",
    "diagnose.py --cfg job",
    "table.py --help",
    "table.py table=geodm_main --cfg job",
    "sweep.py --help",
    "compare.py --help",
    "convert.py --help",
)
FLOOR = "import torch, torch._dynamo, lightning"  # an optimiser's first step imports the second
FIRST_STEP = "run.py until its first iteration"
BETWEEN_LOOKS = 0.01  # seconds


class Cost(NamedTuple):
    """What a process took.

    Attributes:
        wall: Seconds until it was done.
        processor: Seconds of processor time until it had ended.
    """

    wall: float
    processor: float


def script(words: str) -> list[str]:
    """Return the command of a script and its arguments."""
    name, *arguments = words.split()
    return [sys.executable, str(CONFIGS.parent / "experiments" / name), *arguments]


def cost_of(command: list[str], *, first_line: Path | None = None) -> Cost:
    """Run a command to its end, or end it once a file has two lines.

    Raises:
        RuntimeError: If it fails, or ends before the file is there.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = False
    while first_line is not None and process.poll() is None and not seen:
        seen = first_line.is_file() and first_line.read_text(encoding="utf-8").count("\n") > 1
        time.sleep(BETWEEN_LOOKS)
    wall = time.perf_counter() - started
    if seen:
        process.kill()
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not seen and (first_line is not None or process.returncode):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said}")
    if first_line is None:
        wall = time.perf_counter() - started
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def first_step() -> Cost:
    """Start the quick start in an empty folder and wait for its first iteration."""
    with tempfile.TemporaryDirectory() as folder:
        command = script(f"run.py run_dir={folder} cache_dir={folder} distiller.log_every=1")
        return cost_of(command, first_line=Path(folder, "digits_ipc10", "0", "metrics.csv"))


def num_modules(command: list[str]) -> int:
    """Return how many modules a command imports."""
    told = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(told, capture_output=True, text=True, check=True)
    return sum(line.startswith("import time:") for line in done.stderr.splitlines()) - 1


def measure(repeats: int) -> dict[str, Any]:
    """Start everything in turns."""
    load = os.getloadavg()[0]  # programs that were running beside this one
    floor = [sys.executable, "-c", FLOOR]
    costs: dict[str, list[Cost]] = {}
    for _ in range(repeats):
        for words in QUESTIONS:
            costs.setdefault(words, []).append(cost_of(script(words)))
        costs.setdefault(FLOOR, []).append(cost_of(floor))
        costs.setdefault(FIRST_STEP, []).append(first_step())
    rows = {
        name: {
            "seconds": statistics.median(cost.wall for cost in some),
            "slowest": max(cost.wall for cost in some),
            "processor seconds": statistics.median(cost.processor for cost in some),
        }
        for name, some in costs.items()
    }
    for words in QUESTIONS:
        rows[words]["modules"] = num_modules(script(words))
    rows[FLOOR]["modules"] = num_modules(floor)
    ratios = [
        step.processor / bare.processor
        for step, bare in zip(costs[FIRST_STEP], costs[FLOOR], strict=True)
    ]
    return {
        "repeats": repeats,
        "load before": load,
        "commands": rows,
        "first iteration / bare imports, processor": statistics.median(ratios),
        "provenance": provenance(torch.device("cpu")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    tell(measure(arguments.repeats), arguments.output)


if __name__ == "__main__":
    main()
