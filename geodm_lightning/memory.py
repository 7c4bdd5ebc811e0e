"""How much memory there is, how much some work needs, and what to lower where it will not do."""

from __future__ import annotations

import gc
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from geodm_lightning.heap import has_limited_addresses, reusable_bytes
from geodm_lightning.ledger import Trace
from geodm_lightning.types import InputError

# Share of the free memory that is planned with. A heap that keeps what is freed, see
# `heap.keep_freed_memory`, was measured to take 1.8 times what the tensors in it did.
IN_REACH = 0.7
IN_REACH_OF_HEAP = 0.5
# How the allocator of the CPU and oneDNN say it.
NO_MEMORY = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory")
CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
KNOBS = {
    "matching": "distiller.classes_per_step",
    "generation": "generator.batch_size",
    "relabel": "teachers.batch_size",
}


Made = TypeVar("Made")


class Room(NamedTuple):
    """Memory that a process may still take.

    Attributes:
        free: Bytes.
        usable: Bytes of it that are planned with: the rest may be in small pieces.
    """

    free: int
    usable: int

    def told(self) -> str:
        """Return both for readers."""
        return f"{gigabytes(self.usable)} of the {gigabytes(self.free)} that are free may be used"


class Slope(NamedTuple):
    """Memory as a straight line over a setting.

    Attributes:
        base: Bytes at 0.
        each: Further bytes per unit of the setting.
    """

    base: float
    each: float

    def at(self, value: int) -> int:
        """Return the bytes needed at a value of the setting."""
        return max(0, round(self.base + self.each * value))

    def largest(self, available: int) -> int:
        """Return the largest value that fits, 0 if none does."""
        if self.each <= 0:
            return 2**31 if self.base <= available else 0
        return max(0, int((available - self.base) // self.each))


def slope_of(needs: Callable[[int], int], low: int, high: int) -> Slope:
    """Draw the line through what two values of a setting need.

    Args:
        needs: Bytes needed at a value.
        low: The smaller value.
        high: The larger one; the need is taken to be proportional where it is not larger.
    """
    first = needs(low)
    if high <= low:
        return Slope(0.0, first / low)
    each = (needs(high) - first) / (high - low)
    return Slope(first - each * low, each)


@contextmanager
def traced(device: torch.device) -> Iterator[Callable[[], int]]:
    """Follow the memory that the operations of a block take beyond what is held before.

    Yields:
        A function that tells, after the block, the most bytes held at once: of tensors made in
        the block on a CPU, handed out by the allocator on a GPU.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    with Trace() as trace:
        yield lambda: trace.peak


def room_on(device: torch.device) -> Room:
    """Return the memory that this process may still take, and how much of it is planned with."""
    free = available_bytes(device)
    keeps_freed = device.type == "cpu" and not has_limited_addresses()
    return Room(free, round((IN_REACH_OF_HEAP if keeps_freed else IN_REACH) * free))


def available_bytes(device: torch.device) -> int:
    """Return the memory this process may still take: of the GPU, or of machine and container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        limits = [int(fields["MemAvailable"].split()[0]) * 1024]
    for limit, usage in CGROUPS:
        folder = Path("/sys/fs/cgroup") / ("" if limit == "memory.max" else "memory")
        if (folder / limit).is_file():
            text = (folder / limit).read_text().strip()
            if text.isdigit():
                limits.append(int(text) - int((folder / usage).read_text()))
    if has_limited_addresses():
        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0] - _status("VmSize"))
    return max(0, min(limits) + reusable_bytes())


def held_bytes(device: torch.device) -> int:
    """Return the memory that this process has now: of a GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of a GPU or of the machine, has run out."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def explained(stage: str, work: Callable[[], Made], advise: Callable[[], str]) -> Made:
    """Do some work; where memory runs out, say in one line which setting to lower.

    Args:
        stage: What is under way.
        work: Done once.
        advise: Told after everything that the work held is freed; says what to lower, to what.

    Returns:
        What the work returned.

    Raises:
        InputError: In place of the error.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error, keeps no tensors
    gc.collect()  # frames of the work may hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise InputError(f"out of memory in stage {stage}: {advise()} ({reason})")


def gigabytes(number: int | float) -> str:
    """Return bytes for readers."""
    return f"{number / 1e9:.2f} GB" if number >= 1e7 else f"{number / 1e6:.1f} MB"


class Fit(NamedTuple):
    """A batch that fits.

    Attributes:
        batch: Images at once, at least 1.
        memory: Bytes they need.
        advice: What to lower, empty where the wanted batch fits.
    """

    batch: int
    memory: int
    advice: str


def fitting_batch(needs: Callable[[int], int], wanted: int, *, setting: str, room: Room) -> Fit:
    """Find out from two small batches whether a batch fits, and what would.

    Args:
        needs: Works on so many images and returns the bytes that took.
        wanted: Images that are wanted at once.
        setting: Names them.
        room: Bytes there are.
    """
    low = max(1, wanted // 16)
    slope = slope_of(needs, low, min(wanted, 2 * low))
    if slope.at(wanted) <= room.usable:
        return Fit(wanted, slope.at(wanted), "")
    fitting = slope.largest(room.usable)
    need = f"{wanted} images at once need {gigabytes(slope.at(wanted))}, "
    way_out = f"lower {setting} to {fitting}" if fitting else "not even one fits"
    told = f"{need}{room.told()}: {way_out}"
    return Fit(max(1, fitting), slope.at(max(1, fitting)), told)
