"""Devices dealt out to the processes that run trials at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hydra.types import TaskFunction
from omegaconf import DictConfig

_HELD: list[BinaryIO] = []  # the place of this process, held as long as it lives


@dataclass(frozen=True)
class OnOwnDevice:
    """A task whose process takes a place of its own before the first trial it runs.

    Processes of a launcher run one trial after another, and a process keeps the GPU that it has
    once used, so it is the process that has a place and not the trial.

    Attributes:
        task: What a trial runs.
        folder: Where places are held, by the locks of their processes.
        environments: Variables of every place.
    """

    task: TaskFunction
    folder: Path
    environments: Sequence[Mapping[str, str]]

    def __call__(self, config: DictConfig) -> Any:
        """Run a trial."""
        take_place(self.folder, self.environments)
        return self.task(config)


def take_place(folder: Path, environments: Sequence[Mapping[str, str]]) -> None:
    """Take the first place that is free on this machine, unless this process has one.

    Where none is, as when two sweeps of one name are at work, one is shared.
    """
    if _HELD:
        return
    for number, environment in enumerate(environments):
        handle = (folder / f"{os.uname().nodename}-place-{number}.lock").open("ab")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            continue
        _HELD.append(handle)
        os.environ.update(environment)
        return
    os.environ.update(environments[os.getpid() % len(environments)])
