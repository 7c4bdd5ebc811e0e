"""Experiments in processes of their own: started, awaited, killed.

Processes are forked from one that has imported everything: each is as real as a fresh one, but
starts at once.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from geodm_lightning.command_line import CONFIGS

EXPERIMENTS = CONFIGS.parent / "experiments"
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["geodm_lightning.pipeline", "diffusers.models.transformers"])


def start(log: Path, *arguments: str, script: str = "run.py", **environment: str) -> BaseProcess:
    """Start a script of ``experiments/``; both its streams go to the file ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = FORKED.Process(target=_run, args=(log, script, arguments, environment))
    process.start()
    return process


def _run(log: Path, script: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(environment)
    sys.argv = [str(EXPERIMENTS / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def finish(log: Path, *arguments: str, script: str = "run.py") -> tuple[int | None, str]:
    """Run a script to its end and return its exit code and what it printed."""
    process = start(log, *arguments, script=script)
    process.join(240)
    return process.exitcode, log.read_text()


def kill_when(ready: Callable[[], bool], log: Path, *arguments: str) -> None:
    """Start a run and kill it as soon as ``ready`` is true; it must not have ended by then."""
    process = start(log, *arguments)
    deadline = time.monotonic() + 120
    while not ready():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
