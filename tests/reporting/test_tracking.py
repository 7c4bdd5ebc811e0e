"""Metrics: what is logged is read, once, also after a kill; wandb without a network."""

import math
import os
import re
import subprocess
import sys

import pytest
import wandb

from geodm_lightning.reporting.tracking import CsvTracker, read_metrics, wandb_mode, wandb_tracker
from geodm_lightning.types import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def tracker(path, series="geodm") -> CsvTracker:
    return CsvTracker(path, stage="distill", series=series)


def test_reads_what_was_logged(path):
    log = tracker(path)
    log.log_metrics({"distill/loss": 0.1, "weight/a,b": 1 / 3, "epoch": 0}, step=5)
    log.log_metrics({"distill/loss": math.nan}, step=10)
    tracker(path, "dm").log_metrics({"distill/loss": 7.0}, step=5)
    curves = read_metrics(path)["distill"]
    assert set(curves) == {"geodm", "dm"}
    assert set(curves["geodm"]) == {"distill/loss", "weight/a,b"}
    assert curves["geodm"]["weight/a,b"] == ([5], [1 / 3])
    steps, values = curves["geodm"]["distill/loss"]
    assert steps == [5, 10]
    assert values[0] == 0.1
    assert math.isnan(values[1])
    assert curves["dm"]["distill/loss"] == ([5], [7.0])


def test_every_row_is_on_disk_at_once(path):
    log = tracker(path)
    log.log_metrics({"loss": 1.0}, step=1)
    assert path.read_text().splitlines() == [
        "stage,series,step,key,value",
        "distill,geodm,1,loss,1.0",
    ]


def test_resuming_leaves_no_duplicates(path):
    log, other = tracker(path), tracker(path, "dm")
    for step in (10, 20, 30):
        log.log_metrics({"loss": float(step)}, step=step)
        other.log_metrics({"loss": float(step)}, step=step)
    resumed = tracker(path)
    resumed.truncate(step=21)
    resumed.log_metrics({"loss": 31.0}, step=30)
    curves = read_metrics(path)["distill"]
    assert curves["geodm"]["loss"] == ([10, 20, 30], [10.0, 20.0, 31.0])
    assert curves["dm"]["loss"].steps == [10, 20, 30]


def test_truncating_at_zero_forgets_the_series(path):
    log = tracker(path)
    log.log_metrics({"loss": 1.0}, step=0)
    log.truncate(step=0)
    assert read_metrics(path) == {}


@pytest.mark.parametrize("cut", range(1, 12))
def test_half_written_line_is_forgotten(path, cut):
    log = tracker(path)
    log.log_metrics({"loss": 1.0}, step=1)
    log.log_metrics({"loss": 2.0}, step=2)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_metrics(path)["distill"]["geodm"]["loss"] == ([1], [1.0])
    tracker(path).log_metrics({"loss": 3.0}, step=3)
    assert read_metrics(path)["distill"]["geodm"]["loss"] == ([1, 3], [1.0, 3.0])


def test_half_written_header_is_written_again(path):
    path.write_text("stage,ser")
    tracker(path).log_metrics({"loss": 1.0}, step=1)
    assert read_metrics(path)["distill"]["geodm"]["loss"] == ([1], [1.0])


@pytest.mark.parametrize("line", ["distill,geodm,1,loss", "distill,geodm,x,loss,1", "a,b,1,c,x"])
def test_damaged_row_is_named_by_its_line(path, line):
    tracker(path).log_metrics({"loss": 1.0}, step=1)
    with path.open("a") as handle:
        handle.write(f"{line}\n")
    with pytest.raises(InputError, match="line 3"):
        read_metrics(path)


def test_foreign_and_missing_files_are_refused(path):
    with pytest.raises(InputError, match="no metrics"):
        read_metrics(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="does not begin"):
        tracker(path)
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(InputError, match="one line"):
        CsvTracker(path, stage="a\nb", series="c")


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A home without any account."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_wandb_is_online_with_an_account_only(nobody, monkeypatch):
    assert wandb_mode() == "offline"
    nobody.write_text("machine example.org login user password x\n")
    assert wandb_mode() == "offline"
    nobody.write_text("machine api.wandb.ai login user password x\n")
    assert wandb_mode() == "online"
    nobody.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_mode() == "online"


def test_damaged_netrc_is_named(nobody):
    nobody.write_text("machin oops\n")
    with pytest.raises(InputError, match="WANDB_MODE=offline"):
        wandb_mode()


START = """
import sys
from pathlib import Path
from wandb.sdk.lib.service import service_process
from geodm_lightning.reporting.tracking import wandb_tracker
from geodm_lightning.types import InputError
folder = Path(sys.argv[1])
slow, program = folder / "slow", service_process.get_core_path()
slow.write_text(f'#!/bin/sh\\nsleep {sys.argv[2]}\\nexec "{program}" "$@"\\n')
slow.chmod(0o755)
service_process.get_core_path = lambda: str(slow)
try:
    with wandb_tracker(project="p", name="n", folder=folder / "run", config={}):
        print("began")
except InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delay", "told", "said"),
    [
        (2, {"WANDB__SERVICE_WAIT": "0.1"}, r"cannot be started \(.* 0\.1 sec.*or use logger=csv$"),
        (32, {}, r"^began$"),  # wandb itself waits 30 s
    ],
)
def test_wandb_is_waited_for_as_long_as_is_said(nobody, tmp_path, delay, told, said):
    """Its process is the real one, which begins late."""
    environment = {k: v for k, v in os.environ.items() if k != "WANDB__SERVICE_WAIT"}
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path), str(delay)],
        env={**environment, "WANDB_SILENT": "true", **told},
        capture_output=True,
        text=True,
    )
    assert re.search(said, done.stdout.strip()), done.stdout + done.stderr


def test_wandb_writes_offline_and_finishes_after_an_error(nobody, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    folder = tmp_path / "run"

    def fail() -> None:
        with wandb_tracker(project="p", name="a run", folder=folder, config={"ipc": 1}) as logger:
            assert logger.experiment.name == "a run"
            logger.log_metrics({"distill/loss": 1.0}, step=1)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert wandb.run is None
    wandb.teardown()  # its process writes the last block of a record after finish has returned
    (written,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert b"distill/loss" in written.read_bytes()
