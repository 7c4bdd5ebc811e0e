"""A table from nothing on the command line: run, killed, resumed, rendered, judged."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import EXPERIMENTS, finish

RUN = "digits_ipc1_dm_quick"


def arguments_of(folder: Path, *more: str, iterations: int = 2) -> list[str]:
    small = {
        "network.width": 8,
        "schedule.max_iterations": iterations,
        "distiller.checkpoint_every": 20,
        "schedule.max_student_epochs": 2,
        "schedule.max_students": 1,
    }
    return [
        "table=geodm_main", "columns=[digits_ipc1]", "groups=[dm]",
        "schedule=quick", "num_seeds=2", f"run_dir={folder}/runs", f"cache_dir={folder}/pools",
        f"output={folder}/tables", f"overrides={json.dumps(small).replace(chr(34), '')}", *more,
    ]  # fmt: skip


def command(folder: Path, *more: str, iterations: int = 2) -> list[str]:
    script = str(EXPERIMENTS / "table.py")
    return [sys.executable, script, *arguments_of(folder, *more, iterations=iterations)]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    log, folder = tmp_path / "log.txt", tmp_path / "made"
    arguments = arguments_of(folder, "reproduce=cifar10_ipc10/nothing")
    code, output = finish(log, *arguments, script="table.py")
    assert code == 2
    assert output.startswith("error: table geodm_main has no cell 'cifar10_ipc10/nothing'")
    assert output.count("\n") == 1
    assert not folder.exists()


def test_a_launcher_that_hydra_does_not_know_is_refused_before_any_run(tmp_path):
    folder = tmp_path / "made"
    arguments = arguments_of(folder, "launcher=nothing", "list=true")
    code, output = finish(tmp_path / "log.txt", *arguments, script="table.py")
    assert code == 2
    assert output.startswith("error: unknown launcher 'nothing'; choose among basic")
    assert not folder.exists()


@pytest.mark.slow
def test_a_table_is_estimated_run_by_run_and_written_where_asked(tmp_path):
    path = tmp_path / "cost.json"
    told = call(*command(tmp_path, f"estimate={path}", "groups=[dm,hdd]"))
    assert told.returncode == 0, told.stderr
    assert "2 runs to do" in told.stdout
    runs = json.loads(path.read_text())["runs"]
    assert [run["name"] for run in runs] == [RUN, RUN.replace("_dm_", "_hdd_")]
    first, second = (run["works"][0]["seconds"] for run in runs)
    assert second < first + 5  # what the first took is none of the second
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.slow
def test_a_killed_table_is_resumed_and_a_finished_one_starts_nothing(tmp_path):
    checkpoints = tmp_path / "runs" / "tables" / "geodm_main" / RUN / "0" / "checkpoints"
    started = subprocess.Popen(command(tmp_path, iterations=300), start_new_session=True)
    end = time.monotonic() + 120
    while not list(checkpoints.glob("*.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    started.send_signal(signal.SIGKILL)
    started.wait()
    listed = call(*command(tmp_path, "list=true", iterations=300))
    assert f"{RUN}: partial (6 of 6 results missing" in listed.stdout
    first = call(*command(tmp_path, iterations=300))
    assert first.returncode == 0, first.stderr
    assert f"finished {RUN}" in first.stdout
    saved = (tmp_path / "tables" / "geodm_main" / "table.json").read_bytes()
    second = call(*command(tmp_path, iterations=300))
    assert second.returncode == 0
    assert "started" not in second.stdout
    assert (tmp_path / "tables" / "geodm_main" / "table.json").read_bytes() == saved
    cells = json.loads(saved)["cells"]
    assert [(cell["ours"]["seeds"], cell["ours"]["students"]) for cell in cells] == [(2, 2)] * 3


def progress(folder: Path) -> dict[str, str]:
    """Return how far every run is: ``"begun"`` with a checkpoint, ``"done"`` with its results."""
    runs = (folder / "runs" / "tables" / "geodm_main").iterdir()
    return {
        run.name: "done" if (run / "0" / "results.json").is_file() else "begun"
        for run in runs
        if list(run.glob("0/checkpoints/*.ckpt"))
    }


def records_of(folder: Path) -> dict[Path, int]:
    """Return sets and finished students with the time they were written."""
    kept = (*folder.rglob("student-*.json"), *folder.rglob("distilled/manifest.json"))
    return {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once_are_killed_and_resumed_and_none_is_made_twice(tmp_path):
    """Killed with one run finished and another begun; two commands then share what is left."""
    groups, runs = "groups=[dm,hdd,dsdm]", tmp_path / "runs" / "tables" / "geodm_main"
    wanted = command(tmp_path, groups, "jobs=2", "num_seeds=1", iterations=60)
    started = subprocess.Popen(wanted, start_new_session=True)
    end = time.monotonic() + 240
    while not runs.is_dir() or sorted(set(progress(tmp_path).values())) != ["begun", "done"]:
        assert started.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert children
    while any(is_alive(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.05)
    done = {name for name, state in progress(tmp_path).items() if state == "done"}
    before = records_of(tmp_path)
    both = [subprocess.Popen(wanted, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0] for process in both]
    begun = [
        line.split()[1]
        for text in told
        for line in text.splitlines()
        if line.startswith("started ")
    ]
    names = [RUN.replace("_dm_", f"_{group}_") for group in ("dm", "hdd", "dsdm")]
    assert sorted(begun) == sorted(set(names) - done)  # each by one command, once
    assert records_of(tmp_path).items() >= before.items()  # what there was is as it was
    last = call(*wanted)
    assert last.returncode == 0, last.stderr
    assert "started" not in last.stdout
    cells = json.loads((tmp_path / "tables" / "geodm_main" / "table.json").read_text())["cells"]
    assert cells
    assert all((cell["ours"]["seeds"], cell["ours"]["students"]) == (1, 1) for cell in cells)


def is_alive(pid: str) -> bool:
    """Whether a process is there and has not ended."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_other_settings_are_refused_and_named_and_nothing_is_lost(tmp_path):
    assert call(*command(tmp_path)).returncode == 0
    refused = call(*command(tmp_path, iterations=3))
    assert refused.returncode == 1
    assert f"{RUN} is refused" in refused.stderr
    assert "schedule.max_iterations (2 there, 3 now)" in refused.stderr
    again = call(*command(tmp_path, "run=false", iterations=3))  # shows what there is
    assert again.returncode == 0
    cells = json.loads((tmp_path / "tables" / "geodm_main" / "table.json").read_text())["cells"]
    assert all(cell["ours"] is not None for cell in cells)
