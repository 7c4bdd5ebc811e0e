"""Trials at once on devices of their own: dealt out, kept, shared where there are too few."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geodm_lightning.processes import slots
from geodm_lightning.sweeps.command import run_arguments
from tests.experiment import CONFIGS

TAKE = """
import os, sys
from pathlib import Path
from geodm_lightning.sweeps.devices import take_place
places = [{"CUDA_VISIBLE_DEVICES": name} for name in sys.argv[2:]]
for _ in range(2):
    take_place(Path(sys.argv[1]), places)
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def take(tmp_path):
    """Start a process that takes a place, twice; return it with what it was given first."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", TAKE, str(tmp_path), "3", "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_hold_places_of_their_own_until_they_end(take):
    (first, own), (_, other) = take(), take()
    assert (own, other) == ("3", "5")
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline().strip() == own  # for the next trial, too
    assert take()[1] in ("3", "5")  # one too many shares
    first.kill()
    first.wait()
    assert take()[1] == own


SWEEP = """
import runpy, sys
import torch
torch.cuda.device_count = lambda: 2
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "expected"), [(1, {"none"}), (2, {"0", "1"})])
def test_trials_at_once_are_given_a_gpu_each(tmp_path, jobs, expected):
    """The machine need not have the GPUs: what counts is the environment the trials are given."""
    root = CONFIGS.parent
    sweep = [str(root / "sweeps" / "curvature.yaml"), f"run_dir={tmp_path}", "ipc=40"]
    arguments = run_arguments([*sweep, "trials=6", f"jobs={jobs}", "trainer.accelerator=cpu"])
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(root / "tests" / "sweeps" / "curve.py"), *arguments],
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = Path(tmp_path / "curvature" / "devices.txt").read_text().splitlines()
    assert len(lines) == 6
    by_process = dict(line.split() for line in lines)
    assert len(set(lines)) == len(by_process) == jobs  # a process keeps what it was given
    assert set(by_process.values()) == expected


def test_all_gpus_are_dealt_out():
    """More than there are trials: a run may start a process on each of its own."""
    dealt = [place["CUDA_VISIBLE_DEVICES"] for place in slots(2, devices=["0", "1", "2", "3", "4"])]
    assert dealt == ["0,2,4", "1,3"]
