"""One process per device: starting them, dividing the classes, adding up across them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

LOGGER = logging.getLogger(__name__)
PARENT = "GEODM_LIGHTNING_PARENT"  # names the process whose runs shall end with it


class Processes(NamedTuple):
    """The place of this process among all processes of a run.

    Attributes:
        rank: Index of this process over all machines.
        world_size: Number of processes over all machines.
        local_rank: Index of this process on its machine, hence of its device.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that exist once."""
        return self.rank == 0

    def shard(self, num_items: int) -> slice:
        """Return the consecutive items this process owns; sizes differ by at most one."""
        start = self.rank * num_items // self.world_size
        return slice(start, (self.rank + 1) * num_items // self.world_size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def gather(self, owned: Tensor, num_items: int) -> Tensor:
        """Assemble a tensor whose leading axis is divided by :meth:`shard`.

        Args:
            owned: This process's items, shape ``(items owned, ...)``.
            num_items: Items over all processes.

        Returns:
            All items on every process, shape ``(num_items, ...)``.
        """
        if self.world_size == 1:
            return owned
        whole = owned.new_zeros(num_items, *owned.shape[1:])
        whole[self.shard(num_items)] = owned
        return self.sum_(whole)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world_size > 1:
            self.sum_(torch.zeros(1, device="cuda" if dist.get_backend() == "nccl" else "cpu"))


def join_processes(accelerator: str) -> Processes:
    """Join the process group named by the environment (``torchrun`` sets it).

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``; chooses gloo or nccl.

    Returns:
        This process's place; the single process of a plain start joins nothing.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Processes()
    processes = Processes(
        rank=int(os.environ["RANK"]),
        world_size=world_size,
        local_rank=int(os.environ["LOCAL_RANK"]),
    )
    if accelerator == "cuda":
        torch.cuda.set_device(processes.local_rank)
    if not dist.is_initialized():
        backend = "nccl" if accelerator == "cuda" else "gloo"
        # Students of one process may finish hours before those of another.
        dist.init_process_group(backend, timeout=timedelta(days=7))
    return processes


def own_device(accelerator: str) -> torch.device:
    """Return the device of this process: each process of a machine drives one of its own."""
    if accelerator == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def leave_processes() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def launched() -> bool:
    """Whether this process was started as one of several."""
    return "LOCAL_RANK" in os.environ


def launch(num_processes: int, command: Sequence[str] | None = None) -> int:
    """Run a command once per device on this machine and wait for all of them.

    Args:
        num_processes: Processes to start.
        command: Script and arguments; those of this process when omitted.

    Returns:
        0, or the exit code of the first process that failed; the others are then stopped.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Cores are shared out; a number set by the user is kept.
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    own = sys.argv if command is None else command
    try:
        torchrun(["--standalone", f"--nproc_per_node={num_processes}", *own])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that launched it ends, also by ``kill -9``.

    So do processes that torchrun started, and those whose parent asked for it by
    :func:`take_children_along`.
    """
    asked = os.environ.get(PARENT) == str(os.getppid())
    if (launched() or asked) and sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def take_children_along() -> None:
    """Let the runs that this process starts in processes of their own end with it."""
    os.environ[PARENT] = str(os.getpid())


@cache
def say_once(line: str) -> None:
    """Warn in one line, once in a process and by the first process of a run alone."""
    if os.environ.get("RANK", "0") == "0":
        LOGGER.warning(line)


def first_line(told: str, *, most: int = 160) -> str:
    r"""Return the first line that says something of what a compiler or a device told, cut short.

    Example:
        >>> first_line("\nno such device\nat line 3", most=7)
        'no such'
    """
    return next((line for line in told.splitlines() if line.strip()), "")[:most]


def slots(jobs: int, *, devices: Sequence[str]) -> list[dict[str, str]]:
    """Return the environment of each of several processes at once.

    Args:
        jobs: Processes at once.
        devices: GPUs to deal out, all of them, so that a run may start a process on each of its
            own; empty where there are none, then cores are shared.
    """
    if devices:
        dealt = [devices[k::jobs] or [devices[k % len(devices)]] for k in range(jobs)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(own)} for own in dealt]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return [{"OMP_NUM_THREADS": str(threads)} if jobs > 1 else {} for _ in range(jobs)]


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if chosen:
        return [name.strip() for name in chosen.split(",") if name.strip()][:count]
    return [str(number) for number in range(count)]
