"""What a run returns and logs is the accuracy of its own method, on held-out images if asked."""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.pipeline import run
from geodm_lightning.reporting.tables import build_table
from tests.experiment import CONFIGS, compose_config, tiny_overrides

HELD = ("data.validation=0.25", "baselines=[random,herding]")
STAGES = "stages=[distill,relabel,evaluate]"


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    value = run(compose_config(*tiny_overrides(folder), *HELD, STAGES))
    return folder, value, load_results(folder / "runs" / "tiny" / "0" / "results.json")


def test_a_run_returns_the_accuracy_of_its_own_method(validated):
    _, value, results = validated
    assert [result.method for result in results] == ["random", "herding", "geodm"]
    assert value == statistics.fmean(student.accuracy for student in results[-1].students)


def test_nothing_evaluated_returns_nothing(validated):
    folder, _, _ = validated
    overrides = [*tiny_overrides(folder), *HELD, "stages=[distill]"]
    assert run(compose_config(*overrides)) is None


def test_results_say_that_they_are_of_held_out_images(validated):
    _, _, results = validated
    assert {result.provenance["tested_on"] for result in results} == {"validation"}
    assert any("held-out training images" in note for note in build_table(results).notes)


def test_no_set_and_no_cache_has_seen_a_held_out_image(validated):
    folder, _, _ = validated
    data = RealDataModule("digits", validation=0.25)
    data.setup()
    held = {row.tobytes() for row in pixels(data.test)}
    trained = {row.tobytes() for row in pixels(data.train)}
    both = held & trained  # a few digits occur twice
    chosen = load_set(folder / "runs" / "tiny" / "0" / "baselines" / "random")
    unit = chosen.images if chosen.images.is_floating_point() else chosen.images / 255
    for row in unit.flatten(1).mul(16).round().to(torch.uint8).numpy():
        assert row.tobytes() in trained
        assert row.tobytes() not in held - both
    assert [path.name for path in (folder / "pools").iterdir()] == ["validation_0.25"]
    assert list((folder / "pools" / "validation_0.25").iterdir())


def pixels(table):
    unit = table.gather(torch.arange(len(table)))
    return unit.flatten(1).mul(16).round().to(torch.uint8).numpy()


def test_folders_of_runs_without_held_out_images_do_not_speak_of_them(tmp_path):
    assert (
        run(compose_config(*tiny_overrides(tmp_path), "baselines=[]", "stages=[distill]")) is None
    )
    path = tmp_path / "runs" / "tiny" / "0"
    assert "validation" not in yaml.safe_load((path / "config.yaml").read_text())["data"]
    assert "validation" not in load_set(path / "distilled").manifest["config"]["data"]


@pytest.mark.slow
def test_what_an_agent_of_wandb_starts_logs_the_metric_the_sweep_asks_for(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    config = yaml.safe_load((CONFIGS.parent / "sweeps" / "curvature.yaml").read_text())
    values = {"geometry.curvature.hyperbolic": {"value": 0.3}}
    values["geometry.curvature.spherical"] = {"value": 2.5}
    parts = {
        **create_sweep_command_args({"args": values}),
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [config["program"]],
    }
    command = [
        text
        for part in create_sweep_command(config["command"])
        for text in (parts[part[2:-1]] if part[:2] == "${" and part[-1] == "}" else [part])
    ]
    kept = [it for it in tiny_overrides(tmp_path) if not it.startswith("name=")]
    named = {"WANDB_RUN_ID": "run1", "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "sweep1"}
    environment = {**os.environ, **named, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *kept], cwd=CONFIGS.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs" / "run1" / "0"
    settings = yaml.safe_load((path / "config.yaml").read_text())
    assert settings["geometry"]["curvature"] == {"hyperbolic": 0.3, "spherical": 2.5}
    (result,) = load_results(path / "results.json")
    assert logged(path, config["metric"]["name"]) == pytest.approx(result.mean)


def logged(path: Path, key: str) -> float:
    """Return the last value of a key in the record of an offline run, a stream of messages."""
    (record,) = path.glob("wandb/offline-run-*/*.wandb")
    prefixed = bytes([len(key)]) + key.encode()  # a string of a message begins with its length
    found = re.findall(prefixed + rb"[^a-z/]{1,6}?(\d\.\d+)", record.read_bytes())
    return float(found[-1])
