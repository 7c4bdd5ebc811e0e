"""Time several things in turns inside one process; the ratio is the figure that counts."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from geodm_lightning.files import write_json

NO_CUDA = "no CUDA device here; leave --device out"


def positive(text: str) -> int:
    """Read a whole number from 1 off the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


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


class Meter:
    """Notes how much a reading grows in named sections of some work.

    Args:
        read: Returns the reading: seconds of a :func:`clock`, or operations counted so far.

    Attributes:
        notes: What each section took, one entry for every time it was entered.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.notes: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Note what a block takes; blocks do not nest."""
        before = self.read()
        yield
        self.notes[name].append(self.read() - before)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose every call is a section."""

        def noted(*arguments: Any, **keywords: Any) -> Any:
            with self.section(name):
                return call(*arguments, **keywords)

        return noted

    def on(self, owner: Any, attribute: str, name: str) -> AbstractContextManager[Any]:
        """Make every call of an object's or module's function a section, inside a with block."""
        return patch.object(owner, attribute, self.around(name, getattr(owner, attribute)))

    def sums(self) -> dict[str, float]:
        """Return what the sections of each name took together."""
        return {name: sum(notes) for name, notes in self.notes.items()}


def clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that waits for an accelerator before it tells the time."""

    def now() -> float:
        synchronise(device)
        return time.perf_counter()

    return now


def tell(result: Mapping[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file where one is named."""
    print(json.dumps(result, indent=2))
    if output is not None:
        write_json(output, result)
