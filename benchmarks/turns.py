"""Time several things in turns inside one process; the ratio is the figure that counts."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from geodm_lightning.files import write_json


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[int], Any], turn: int, device: torch.device) -> float:
    """Time one call, which is told the number of its turn."""
    synchronise(device)
    started = time.perf_counter()
    call(turn)
    synchronise(device)
    return time.perf_counter() - started


def take_turns(
    calls: Mapping[str, Callable[[int], Any]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each call in every turn, after one turn that is not counted.

    Args:
        calls: What to time, by name; each is told the number of its turn.
        device: What to wait for before and after a call.
        repeats: Turns that count.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(repeats + 1):
        for name, call in calls.items():
            times[name].append(seconds_of(call, turn, device))
    return {name: values[1:] for name, values in times.items()}


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median of the ratios of the turns."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the best product rate of square matrices seen here, in FLOP per second."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = take_turns({"product": lambda _: a @ b}, device, 7)["product"]
    return 2 * size**3 / min(times)


def tell(result: Mapping[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file where one is named."""
    print(json.dumps(result, indent=2))
    if output is not None:
        write_json(output, result)
