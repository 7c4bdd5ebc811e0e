"""Runs over several machines, played by several agents on this one; jobs of a queue."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.methods import methods_of
from geodm_lightning.probes.probe import Alone
from geodm_lightning.processes import Processes
from geodm_lightning.site import Site
from tests.experiment import CONFIGS, compose_settings, tiny_overrides

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "experiments" / "run.py")
OPTIONS = ("baselines=[random]", "trainer.accelerator=cpu")


class Counting(Alone):
    """Counts the bytes that are added up over the processes."""

    sent = 0

    def sum_(self, tensor):
        Counting.sent += tensor.numel() * tensor.element_size()
        return tensor


def bytes_of_a_step(folder, *overrides):
    """Return the bytes summed over two processes, and those of images that one owns."""
    from geodm_lightning import assembly

    settings = compose_settings(*tiny_overrides(folder), "geometry.learn_weights=true", *overrides)
    site = Site(torch.device("cpu"), processes=Counting(0, 2))
    data = assembly.build_data(settings, site.device)
    row = next(row for row in methods_of(settings) if row.is_main)
    real = assembly.build_real_features(row.settings, data, site)
    distiller = assembly.build_distiller(row.settings, data, site, real)
    distiller.manual_backward = torch.Tensor.backward
    assert isinstance(distiller, MatchingDistiller)
    Counting.sent = 0
    distiller.training_step(0)
    return Counting.sent, distiller.synthetic.pixels.nbytes


def test_a_step_sends_the_gradient_of_the_geometry_however_many_images_there_are(tmp_path):
    few, many = (bytes_of_a_step(tmp_path, f"ipc={ipc}") for ipc in (2, 8))
    assert few[0] == many[0] > 0
    assert many[1] == 4 * few[1]
    weights = bytes_of_a_step(tmp_path, "ipc=2", "geometry.learn_weights=false")[0]
    assert few[0] - weights == 3 * 4  # three weights, four bytes each


def test_a_process_owns_its_share_of_the_images(tmp_path):
    whole = 10 * 2 * 8 * 8 * 4
    assert bytes_of_a_step(tmp_path, "ipc=2")[1] == whole // 2
    assert Processes(0, 2).shard(10) == slice(0, 5)


def test_slurm_jobs_are_queued_again_where_time_runs_out():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)
    launcher = config.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.tasks_per_node, launcher.nodes) == (1, 1)
    assert launcher.max_num_timeout > 0


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def free_port():
    with socket.socket() as door:
        door.bind(("localhost", 0))
        return door.getsockname()[1]


def finish(command, **more):
    done = subprocess.run(
        command,
        env=environment(**more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish([sys.executable, SCRIPT, *tiny_overrides(folder), *OPTIONS])
    return folder / "runs" / "tiny" / "0"


def assert_same(path, expected):
    images = [load_set(each / "distilled").images for each in (path, expected)]
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-4)
    assert load_set(path / "distilled").manifest["cost"]["processes"] == 2
    random = [load_results(each / "results.json")[0].accuracies for each in (path, expected)]
    assert random[0] == random[1]  # the same images, the same students


@pytest.mark.slow
def test_two_nodes_joined_by_torchrun_end_with_what_one_process_does(tmp_path, alone):
    rendezvous = [
        "--rdzv-id=test",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{free_port()}",
    ]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes=2", "--nproc-per-node=1", *rendezvous),
                *(SCRIPT, *tiny_overrides(tmp_path), *OPTIONS),
            ],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [agent.communicate(timeout=280)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert_same(tmp_path / "runs" / "tiny" / "0", alone)


@pytest.mark.slow
def test_the_slurm_script_starts_an_agent_on_every_node(tmp_path, alone):
    """What Slurm would do is done by two stand-ins: names of the nodes, a start on each."""
    tools = {
        "scontrol": "echo localhost; sleep 0.2; echo localhost",  # names come as they come
        "srun": 'shift; "$@" & first=$!; "$@"; code=$?; wait $first && exit $code',
    }
    for name, body in tools.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/bash\n{body}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost"}
    finish(
        ["bash", "docker/slurm.sh", *tiny_overrides(tmp_path), *OPTIONS],
        PATH=path,
        SLURM_CPUS_PER_TASK="1",
        **job,
    )
    assert_same(tmp_path / "runs" / "tiny" / "0", alone)


@pytest.mark.slow
def test_a_job_of_submitit_is_a_whole_run(tmp_path):
    options = (*tiny_overrides(tmp_path), "baselines=[]", "seed=0,1")
    finish([sys.executable, SCRIPT, "-m", "hydra/launcher=submitit_local", *options])
    for seed in ("0", "1"):
        assert (tmp_path / "runs" / "tiny" / seed / "report.html").is_file()


@pytest.mark.slow
def test_a_set_is_judged_by_two_processes_as_by_one(tmp_path, alone):
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py")]
    common = [f"distilled={alone / 'distilled'}", "network.width=8", "trainer.accelerator=cpu"]
    common += ["schedule.max_student_epochs=3", "schedule.max_students=2", "name=judged"]
    common += ["schedule.max_whole_steps=2", "stages=[distill,evaluate,report]"]
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        more = [f"run_dir={folder}", f"cache_dir={folder}/cache", f"trainer.devices={devices}"]
        finish([*command, *common, *more])
        found.append(load_results(folder / "judged" / "0" / "results.json"))
    assert [r.key for r in found[0]] == [r.key for r in found[1]]
    assert [r.accuracies for r in found[0]] == [r.accuracies for r in found[1]]
