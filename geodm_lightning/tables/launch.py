"""Starting runs: processes of their own, some at once, each on a device of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from geodm_lightning.command_line import CONFIGS
from geodm_lightning.processes import take_children_along

SCRIPT = CONFIGS.parent / "experiments" / "run.py"
POLL = 0.2  # seconds
LOG = "run.log"
LOCK = ".lock"
BUSY = 75  # exit code of what is to be tried again later, as in sysexits.h


class Job(NamedTuple):
    """A process to start.

    Attributes:
        name: How it is called in messages.
        command: Program and arguments.
        log: File that takes its output.
    """

    name: str
    command: tuple[str, ...]
    log: Path


class Outcome(NamedTuple):
    """How a process ended.

    Attributes:
        name: Of the job.
        code: Exit code; 0 for success.
        seconds: Wall-clock time.
        line: Last line of its output.
    """

    name: str
    code: int
    seconds: float
    line: str


class Running(NamedTuple):
    """A process at work."""

    job: Job
    process: subprocess.Popen[bytes]
    began: float


def run_command_line(overrides: Sequence[str], *, launcher: str | None = None) -> tuple[str, ...]:
    """Return the command of one run.

    Args:
        overrides: Of ``experiments/run.py``.
        launcher: Hydra launcher that starts it, None to run it in the process itself.
    """
    through = () if launcher is None else ("--multirun", f"hydra/launcher={launcher}")
    return (sys.executable, str(SCRIPT), *through, *overrides)


def launch(
    jobs: Sequence[Job],
    *,
    environments: Sequence[Mapping[str, str]],
    tell: Callable[[str], object],
) -> list[Outcome]:
    """Run jobs, as many at once as there are environments; a failure stops no other.

    Whatever ends this process ends the jobs with it.

    Args:
        jobs: What to run, in order.
        environments: Variables of each place that a job may take.
        tell: Called with a line for every start and end.

    Returns:
        How the jobs ended, in the order they were given.
    """
    take_children_along()
    waiting = list(jobs)
    outcomes: dict[str, Outcome] = {}
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            for place, environment in enumerate(environments):
                if place not in running and waiting:
                    job = waiting.pop(0)
                    process = _start(job, environment)
                    if process is None:
                        outcomes[job.name] = Outcome(job.name, BUSY, 0.0, "another command runs it")
                    else:
                        running[place] = Running(job, process, time.monotonic())
                    tell(f"{'left' if process is None else 'started'} {job.name}")
            time.sleep(POLL)
            for outcome in _ended(running):
                outcomes[outcome.name] = outcome
                tell(_describe(outcome))
    finally:
        for own in running.values():
            own.process.terminate()
        for own in running.values():
            own.process.wait()
    return [outcomes[job.name] for job in jobs]


def _ended(running: dict[int, Running]) -> list[Outcome]:
    """Free the places of jobs that have ended and return how they did."""
    over = [place for place, own in running.items() if own.process.poll() is not None]
    return [
        Outcome(own.job.name, own.process.returncode, time.monotonic() - own.began,
                last_line(own.job.log))
        for own in map(running.pop, over)
    ]  # fmt: skip


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start a job, None where another command runs it: each holds a lock as long as it lives."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.with_name(LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        with job.log.open("wb") as log:
            return subprocess.Popen(
                job.command,
                env={**os.environ, **environment},
                pass_fds=(lock.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def _describe(outcome: Outcome) -> str:
    took = f"{outcome.seconds / 60:.1f} min"
    if outcome.code == 0:
        return f"finished {outcome.name} in {took}"
    return f"failed {outcome.name} after {took} (exit {outcome.code}): {outcome.line}"


def last_line(path: Path) -> str:
    """Return the last line of a text file that says something, empty if none does."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
