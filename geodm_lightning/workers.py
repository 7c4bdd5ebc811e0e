"""Threads that each compute on one core, for work that falls into independent pieces.

PyTorch spreads every operation over the cores by itself and waits at its end for the slowest. Where
operations are short, waking and waiting take longer than computing; whole pieces on a core of their
own need neither. What a piece gives does not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function with every item, as many at once as PyTorch has threads, without a graph.

    One after the other where PyTorch has one thread, where there is one item, and, on one core,
    where someone follows the operations of this thread, as counters of operations and memory do.

    Args:
        work: Reads what others write only if it was written before; draws no random numbers.
        items: What it is called with.

    Returns:
        What it returned, in the order of the items.

    Raises:
        Exception: The first that a call raised.
    """
    everything = list(items)
    if len(everything) < 2:
        with torch.no_grad():
            return [work(item) for item in everything]
    if not _has_workers():
        with torch.no_grad(), _one_core():
            return [work(item) for item in everything]
    mode = _modes()

    def run(item: Item) -> Result:
        with mode():
            return work(item)

    return list(_pool(os.getpid(), torch.get_num_threads()).map(run, everything))


def run_alone(work: Callable[[], Result]) -> Result:
    """Call a function on one core, without a graph, however many threads PyTorch has.

    For a long row of operations each shorter than waking threads takes. Here as for
    :func:`run_each` a thread's operations that are followed stay in it.

    Args:
        work: What is called; draws no random numbers.

    Returns:
        What it returned.

    Raises:
        Exception: What it raised.
    """
    mode = _modes()

    def run() -> Result:
        with mode():
            return work()

    if not _has_workers():
        with _one_core():
            return run()
    return _pool(os.getpid(), torch.get_num_threads()).submit(run).result()


@contextmanager
def _one_core() -> Iterator[None]:
    """Let this thread compute on one core for as long as the block lasts."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


def _has_workers() -> bool:
    """Whether there is more than one thread, and nobody follows the operations of this one."""
    return torch.get_num_threads() > 1 and torch._C._len_torch_dispatch_stack() == 0


def _modes() -> Callable[[], AbstractContextManager[None]]:
    """Return what gives another thread the modes of this one: no graph, and its precision."""
    no_graph = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad
    is_mixed, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    @contextmanager
    def modes() -> Iterator[None]:
        with no_graph(), torch.autocast("cpu", dtype, enabled=is_mixed):
            yield

    return modes


@cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """Return threads of a process, each of which tells PyTorch to compute on one core."""
    started = Barrier(num_threads + 1)

    def settle() -> None:
        torch.get_num_threads()  # takes over the number of this process, and never again
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="core", initializer=settle)
    for _ in range(num_threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(num_threads)  # what threads that come later take over
    return pool
