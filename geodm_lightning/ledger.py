"""What each component of an iteration costs: seconds always, memory in one traced iteration."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COMPONENTS = ("augment", "network", "geometry", "transport", "optimiser")
TRACED_ITERATION = 1  # the second one: the first also makes what every later one reuses


class Spending(NamedTuple):
    """What a stretch of work cost, by component.

    Attributes:
        seconds: Wall-clock time.
        bytes: Most bytes of tensors alive that the iteration had made, where it was traced.
    """

    seconds: dict[str, float]
    bytes: dict[str, int]


class Ledger:
    """Adds up the cost of the iterations of one distillation by component.

    On an accelerator a measured iteration waits for the device at both ends of a section, so
    only every ``measure_every``-th iteration is measured there; a CPU is always measured. The
    memory of a CPU is that of the tensors made during one traced iteration, whose time does
    not count; the memory of an accelerator is what its allocator handed out.

    Args:
        device: Where the work is done.
        measure_every: Iterations between two measured ones on an accelerator.
    """

    def __init__(self, device: torch.device | str = "cpu", *, measure_every: int = 1) -> None:
        self.device = torch.device(device)
        self.measure_every = measure_every
        self.seconds = dict.fromkeys(COMPONENTS, 0.0)
        self.bytes = dict.fromkeys(COMPONENTS, 0)
        self.num_measured = 0
        self.marks: list[tuple[str, dict[str, float], int]] = []
        self._measuring = False
        self._trace: Trace | None = None

    @contextmanager
    def iteration(self, number: int) -> Iterator[None]:
        """Open the account of one iteration.

        Args:
            number: Iteration of the run, from 0.
        """
        is_cpu = self.device.type == "cpu"
        traced = number == TRACED_ITERATION and is_cpu
        self._measuring = not traced and (is_cpu or number % self.measure_every == 0)
        self.num_measured += self._measuring
        try:
            if traced:
                with Trace() as self._trace:
                    yield
            else:
                yield
        finally:
            self._trace, self._measuring = None, False

    @property
    def is_measuring(self) -> bool:
        """Whether time or memory of this iteration is charged section by section."""
        return self._measuring or self._trace is not None

    @contextmanager
    def section(self, component: str) -> Iterator[None]:
        """Charge the time and memory of a block to ``component``; blocks do not nest.

        Args:
            component: One of :data:`COMPONENTS`.
        """
        if self._trace is not None:
            self._trace.peak = self._trace.alive
            yield
            self.bytes[component] = max(self.bytes[component], self._trace.peak)
            return
        if not self._measuring:
            yield
            return
        self._synchronise()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        yield
        self._synchronise()
        self.seconds[component] += time.perf_counter() - started
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self.bytes[component] = max(self.bytes[component], peak)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def balance(self) -> Spending:
        """Return a copy of all that was charged so far."""
        return Spending(dict(self.seconds), dict(self.bytes))

    def charge(self, spending: Spending) -> None:
        """Add what another account paid for both, as if this one had done the work alone."""
        for component, seconds in spending.seconds.items():
            self.seconds[component] += seconds
        for component, peak in spending.bytes.items():
            self.bytes[component] = max(self.bytes[component], peak)

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor made elsewhere among those alive, where this iteration is traced."""
        if self._trace is not None:
            self._trace.add(tensor)

    def since(self, before: Spending) -> Spending:
        """Return what was charged after ``before``; the memory is the most so far."""
        seconds = {name: self.seconds[name] - spent for name, spent in before.seconds.items()}
        return Spending(seconds, dict(self.bytes))

    def per_iteration(self) -> dict[str, float]:
        """Seconds per iteration of each component, over the measured iterations."""
        return {name: s / max(self.num_measured, 1) for name, s in self.seconds.items()}

    def mark(self, name: str) -> None:
        """Begin a stretch that :meth:`stretches` tells apart from the one before."""
        self.marks.append((name, dict(self.seconds), self.num_measured))

    def stretches(self) -> list[dict[str, Any]]:
        """Seconds per iteration between the marks, each stretch with the name it began with."""
        nothing = dict.fromkeys(self.seconds, 0.0)
        ends = [*self.marks, ("end", self.seconds, self.num_measured)]
        begins = [("start", nothing, 0), *self.marks]
        return [
            {
                "from": name,
                "iterations_measured": stop - start,
                "seconds_per_iteration": {
                    key: (after[key] - before[key]) / max(stop - start, 1) for key in after
                },
            }
            for (name, before, start), (_, after, stop) in zip(begins, ends, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Return plain values from which :meth:`restore` goes on."""
        marks = [list(mark) for mark in self.marks]
        return {**self.balance()._asdict(), "num_measured": self.num_measured, "marks": marks}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by :meth:`state`."""
        self.seconds, self.bytes = dict(state["seconds"]), dict(state["bytes"])
        self.num_measured = state["num_measured"]
        self.marks = [(name, dict(seconds), count) for name, seconds, count in state["marks"]]


class Trace(TorchDispatchMode):
    """Follows the storages that the operations inside it make, until they are freed.

    Attributes:
        alive: Bytes of those not freed yet.
        peak: Most bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages it made."""
        known = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                key = _key(tensor)
                if key not in known and key not in self._known:
                    self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a storage until it is freed."""
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
