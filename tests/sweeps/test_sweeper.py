"""Local sweeps through Hydra: kept, resumed after a kill, shared, failing trials, summaries."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from geodm_lightning.command_line import run_command
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.sweeps.command import run_arguments, summarise
from geodm_lightning.sweeps.space import name_of_point, overrides_of
from geodm_lightning.sweeps.summary import summarised
from geodm_lightning.sweeps.sweeper import register_sweeper
from geodm_lightning.sweeps.trials import open_study
from geodm_lightning.types import InputError
from tests.experiment import CONFIGS
from tests.sweeps import curve

SWEEP = CONFIGS.parent / "sweeps" / "curvature.yaml"
KEYS = ("geometry.curvature.hyperbolic", "geometry.curvature.spherical")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Run a sweep of :mod:`tests.sweeps.curve` in this process; return its folder."""
    monkeypatch.delenv("GEODM_LIGHTNING_PARENT", raising=False)

    def run(*overrides, space=SWEEP):
        arguments = run_arguments([str(space), f"run_dir={tmp_path}", *overrides])
        monkeypatch.setattr(sys, "argv", ["curve.py", *arguments])
        register_sweeper()
        run_command(curve.main, usage=curve.__doc__)
        return tmp_path / "curvature"

    return run


def rows(folder):
    with (folder / "trials.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_trials_are_what_the_function_says(sweep, capsys):
    folder = sweep("trials=2", "repeats=1")
    found = rows(folder)
    assert [row["state"] for row in found] == ["complete"] * 2
    for row in found:
        point = {key: float(row[key]) for key in KEYS}
        assert float(row["accuracy"]) == pytest.approx(curve.accuracy(*point.values()), abs=1e-12)
        assert row["run"] == name_of_point(point)
    summary = summarised(open_study(folder.with_suffix(".sqlite")))
    assert summary.repeats == {0: curve.accuracy(1.0, 1.0)}
    assert summary.tested_on == "20 % of the training images, held out"
    best = max(float(row["accuracy"]) for row in found)
    assert f"trials begun: 2, finished: 2; best {100 * best:.2f} %" in capsys.readouterr().out
    assert " ".join(overrides_of(summary.best.point)) in (folder / "summary.md").read_text()


@pytest.mark.slow
def test_the_final_command_judges_on_the_test_images(sweep):
    summary = summarised(open_study(sweep("trials=1").with_suffix(".sqlite")))
    final = summary.command(summary.best, run_dir="runs", name="x", final=True)
    again = summary.command(summary.best, run_dir="runs", name="x")
    assert "data.validation=0.2" in again
    assert "data.validation" not in final
    assert final.count("run_dir=") == final.count("name=") == 1


@pytest.mark.slow
def test_a_sweep_on_test_images_says_that_it_chose_on_them(sweep):
    text = (sweep("trials=2", "data.validation=0") / "summary.md").read_text()
    assert "compared on the test images" in text
    assert "no estimate" in text


@pytest.mark.slow
def test_the_same_command_goes_on_and_a_larger_one_adds(sweep):
    folder = sweep("trials=3")
    first = rows(folder)
    sweep("trials=3")
    assert (folder / "log.txt").read_text().count("\n") == 3
    sweep("trials=5")
    assert rows(folder)[:3] == first
    assert (folder / "log.txt").read_text().count("\n") == 5
    assert not [
        p for p in (folder / ".sweepers").iterdir() if p.suffix != ".lock" and p.stem != "lock"
    ]


@pytest.mark.slow
def test_another_experiment_under_the_same_name_is_refused(sweep, capsys):
    folder = sweep("trials=1")
    settings = summarised(open_study(folder.with_suffix(".sqlite"))).settings
    RunFolder(folder / "as_it_stands" / "0").open(settings, {})  # as a repeat leaves it
    with pytest.raises(SystemExit) as caught:
        sweep("trials=2", "ipc=3")
    assert caught.value.code == 2
    assert "belongs to another sweep: ipc (10 there, 3 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "failure",
    ["refused", *(pytest.param(name, marks=pytest.mark.slow) for name in ("diverged", "broken"))],
)
def test_a_trial_that_fails_is_kept_with_its_reason_and_others_go_on(sweep, failure, tmp_path):
    reasons = {
        "refused": "no curvature {}, use 1 or less",
        "diverged": "the accuracy is nan",
        "broken": "RuntimeError: out of order",
    }
    values = [1.0, 4.0, 0.5] if failure == "broken" else [0.5, 1.0, 4.0]
    space = written(tmp_path / "grid.yaml", KEYS[0], values)
    folder = sweep(f"schedule.name={failure}", space=space)
    failed = {row[KEYS[0]]: row["error"] for row in rows(folder) if row["state"] == "fail"}
    expected = ["4.0", "0.5"] if failure == "broken" else ["4.0"]
    assert failed == {value: reasons[failure].format(value) for value in expected}
    assert len(rows(folder)) == 3
    assert reasons[failure].format("4.0") in (folder / "summary.md").read_text()


def written(path, key, values):
    metric = {"name": "accuracy", "goal": "maximize"}
    parameters = {key: {"values": values}}
    sweep = {"name": "curvature", "method": "grid", "metric": metric, "parameters": parameters}
    path.write_text(yaml.safe_dump(sweep))
    return path


@pytest.mark.slow
def test_a_sweep_whose_every_trial_fails_ends_early(sweep, capsys):
    with pytest.raises(SystemExit) as caught:
        sweep("trials=30", "schedule.name=broken")
    assert caught.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "error: the first 3 trials failed, the last: RuntimeError: out of order"


def test_a_sweep_of_one_trial_that_fails_has_failed(sweep, tmp_path, capsys):
    space = written(tmp_path / "grid.yaml", KEYS[0], [3.0, 4.0])
    with pytest.raises(SystemExit) as caught:
        sweep("trials=1", "schedule.name=refused", space=space)
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert "trial 0 failed: no curvature 3.0, use 1 or less" in told.out
    assert "trials begun: 1, finished: 0, failed: 1" in told.out
    assert told.err == "error: the first trial failed: no curvature 3.0, use 1 or less\n"


REFUSED = {
    "geometry.curvatur.hyperbolic": r"curvatur.hyperbolic .*did you mean geometry.curvature.hyper",
    "strateg": r"parameter strateg of .* did you mean strategy\?",
}


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow if "." in key else ()) for key in REFUSED]
)
def test_a_key_that_no_configuration_has_ends_a_sweep_before_any_trial(
    sweep, tmp_path, key, capsys
):
    space = written(tmp_path / "wrong.yaml", key, [1, 2])
    with pytest.raises(SystemExit) as caught:
        sweep(space=space)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(REFUSED[key], line)
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


BAD = {
    "trials=0": "num_trials must be at least 1 or null, got 0",
    "jobs=0": "jobs must be a whole number of at least 1, got 0",
    "ipc=1,2": "ipc=1,2 has several values",
    "ipc=500": "ipc=500 is more than the",
    "stages=[distill]": "add evaluate to stages",
    "estimate=true": "not estimated as a whole",
    "data.validation=1.5": "data.validation is the share",
}


QUICKLY = ("trials=0", "jobs=0", "ipc=1,2")


@pytest.mark.parametrize(
    "override",
    [pytest.param(it, marks=() if it in QUICKLY else pytest.mark.slow) for it in BAD],
)
def test_what_no_trial_could_do_is_refused_before_any(sweep, override, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        sweep("trials=1", override)
    assert caught.value.code == 2
    assert BAD[override] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_grid_is_as_long_as_it_is(sweep, tmp_path):
    folder = sweep(space=written(tmp_path / "grid.yaml", KEYS[1], [4.0, 1.0, 2.0]))
    assert [row[KEYS[1]] for row in rows(folder)] == ["4.0", "1.0", "2.0"]


def start(folder, *overrides):
    arguments = run_arguments([str(SWEEP), f"run_dir={folder}", "ipc=31", *overrides])
    command = [sys.executable, "-m", "tests.sweeps.curve", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=CONFIGS.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_after_a_kill_a_sweep_has_the_trials_of_one_that_was_not(sweep, tmp_path):
    killed = tmp_path / "killed"
    process = start(killed, "trials=6")
    log = killed / "curvature" / "log.txt"
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    states = [t.state.name for t in open_study(killed / "curvature.sqlite").get_trials()]
    assert states.count("RUNNING") == 1  # killed in the midst of a trial
    folder = sweep("trials=6", "ipc=31")
    sweep("trials=6", "ipc=31", f"run_dir={killed}")
    assert rows(killed / "curvature") == rows(folder)
    started = log.read_text().split()
    assert len(started) == 7  # the trial that was killed began twice
    assert len(set(started)) == 6


@pytest.mark.slow
def test_two_sweepers_share_the_trials_of_one(sweep, tmp_path):
    shared = tmp_path / "shared"
    processes = [start(shared, "trials=16") for _ in range(2)]
    for process in processes:
        finish(process)
    folder = sweep("trials=16", "ipc=31")
    assert rows(shared / "curvature") == rows(folder)  # the same points, each once
    assert len(set((shared / "curvature" / "log.txt").read_text().split())) == 16


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_end_with_the_sweep(tmp_path):
    process = start(tmp_path, "trials=8", "jobs=2", "ipc=110")
    log = tmp_path / "curvature" / "log.txt"
    while not (log.is_file() and log.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    workers = [pid for pid in children if "popen_loky" in command_of(pid)]
    while any(command_of(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stderr.close()
    finish(start(tmp_path, "trials=8", "jobs=2", "ipc=110"))
    assert [row["state"] for row in rows(tmp_path / "curvature")] == ["complete"] * 8


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.slow
def test_a_summary_can_be_had_by_itself(sweep, tmp_path):
    folder = sweep("trials=2")
    before = (folder / "summary.md").read_text()
    (folder / "summary.md").unlink()
    assert summarise(folder.with_suffix(".sqlite")).startswith("trials begun: 2, finished: 2")
    assert (folder / "summary.md").read_text() == before
    torn = tmp_path / "torn.sqlite"
    torn.write_bytes(b"SQLite format 3\0" + bytes(50))
    with pytest.raises(InputError, match=r"torn.sqlite holds no sweep of this version"):
        summarise(torn)
