"""Where students do not fit, what is advised does."""

import os
import subprocess
import sys

import pytest

from geodm_lightning.command_line import CONFIGS
from tests.experiment import tiny_overrides

ROOT = CONFIGS.parent
LIMITED = """
import resource, runpy, sys
import torch, lightning, geodm_lightning.pipeline
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
size = int(status["VmSize"].split()[0]) * 1024 + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (size, size))
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_in(megabytes, *options):
    """Run an experiment with so much memory beyond that of its libraries."""
    script = str(ROOT / "experiments" / "run.py")
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes * 2**20), script, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_students_that_do_not_fit_are_told_what_would(tmp_path):
    options = [
        *tiny_overrides(tmp_path),
        "ipc=100",
        "network.width=256",
        "distiller.real_batch=8",
        "distiller.classes_per_step=1",
        "distiller.num_iterations=1",
        "baselines=[]",
        "stages=[distill,evaluate]",
        "evaluation.protocol.batch_size=1000",
        "evaluation.together=1",
    ]
    failed = run_in(500, *options)
    assert failed.returncode == 2, failed.stderr
    start = "error: out of memory in stage evaluate: a student with batches of 1000 needs "
    assert failed.stderr.startswith(start)
    assert failed.stderr.count("\n") == 1
    advised = failed.stderr.partition("lower evaluation.protocol.batch_size to ")[2]
    fitting = advised.split(",")[0]
    assert 1 <= int(fitting) <= 500
    again = run_in(500, *options, f"evaluation.protocol.batch_size={fitting}", "name=fitting")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_run_that_needs_more_than_there_is_names_what_then_fits(tmp_path):
    wide = ("network.width=256", "ipc=130", "distiller.real_batch=8", "stages=[distill]")
    options = [*tiny_overrides(tmp_path), *wide, "baselines=[]"]
    failed = run_in(450, *options)
    assert failed.returncode == 2
    assert failed.stderr.startswith(
        "error: out of memory in stage distill: 10 classes at once need"
    )
    assert failed.stderr.count("\n") == 1
    fitting = failed.stderr.partition("lower distiller.classes_per_step to ")[2].split()[0]
    assert 1 <= int(fitting) < 10
    again = run_in(450, *options, f"distiller.classes_per_step={fitting}")
    assert again.returncode == 0, again.stderr
