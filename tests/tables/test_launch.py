"""Runs are started beside each other, and whatever becomes of one leaves the others alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geodm_lightning.processes import slots
from geodm_lightning.tables.launch import Job, last_line, launch, run_command_line


def job(name: str, folder, code: str) -> Job:
    return Job(name, (sys.executable, "-c", code), folder / name / "run.log")


def test_a_failure_is_told_with_its_last_line_and_stops_no_other(tmp_path):
    told: list[str] = []
    jobs = [
        job("bad", tmp_path, "import sys; print('error: no such thing'); sys.exit(2)"),
        job("good", tmp_path, "print('fine')"),
    ]
    bad, good = launch(jobs, environments=[{}], tell=told.append)
    assert (bad.name, bad.code, bad.line) == ("bad", 2, "error: no such thing")
    assert (good.name, good.code, good.line) == ("good", 0, "fine")
    assert [line.split()[0] for line in told] == ["started", "failed", "started", "finished"]


def test_every_place_has_its_own_environment(tmp_path):
    code = "import os, time; time.sleep(0.5); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    jobs = [job(f"job{k}", tmp_path, code) for k in range(2)]
    outcomes = launch(jobs, environments=slots(2, devices=["5", "7"]), tell=lambda _: None)
    assert {outcome.line for outcome in outcomes} == {"5", "7"}


def test_two_places_run_two_jobs_at_once(tmp_path):
    """Each waits for the other's file, so they end only if both are running."""
    jobs = []
    for own, other in (("a", "b"), ("b", "a")):
        code = (
            f"import pathlib, time; here = pathlib.Path({str(tmp_path)!r})\n"
            f"(here / {own!r}).touch()\n"
            f"while not (here / {other!r}).exists(): time.sleep(0.01)"
        )
        jobs.append(job(f"job_{own}", tmp_path, code))
    outcomes = launch(jobs, environments=[{}, {}], tell=lambda _: None)
    assert [outcome.code for outcome in outcomes] == [0, 0]


def test_jobs_end_with_their_parent(tmp_path):
    path = tmp_path / "pid"
    code = f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def stop(_: str) -> None:
        while not path.is_file() or not path.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch([job("long", tmp_path, code)], environments=[{}], tell=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_runs_are_asked_to_end_with_this_process_also_by_kill_9(tmp_path):
    code = (
        "import os, signal, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from geodm_lightning.tables.launch import Job, launch\n"
        "run = 'import os, time; from geodm_lightning.processes import die_with_parent; '\n"
        f"run += 'die_with_parent(); print(os.getpid(), flush=True); time.sleep(600)'\n"
        "def stop(_):\n"
        f"    log = Path({str(tmp_path)!r}) / 'run.log'\n"
        "    while not log.read_text().strip(): time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"job = Job('run', (sys.executable, '-c', run), Path({str(tmp_path)!r}) / 'run.log')\n"
        "launch([job], environments=[{}], tell=stop)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    pid = int((tmp_path / "run.log").read_text())
    end = time.monotonic() + 30
    while time.monotonic() < end and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break  # ended, and nobody has asked how
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}/stat").exists()


def test_a_run_is_never_started_twice_at_once(tmp_path):
    path = tmp_path / "go"
    code = f"import pathlib, time\nwhile not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)"
    both = [job("same", tmp_path, code)._replace(name=name) for name in ("first", "second")]

    def go_on(line: str) -> None:
        if line.startswith("left"):
            path.touch()

    first, second = launch(both, environments=[{}, {}], tell=go_on)
    assert (first.code, second.code) == (0, 75)
    assert second.line == "another command runs it"
    (again,) = launch(both[1:], environments=[{}], tell=go_on)
    assert again.code == 0


def test_gpus_are_dealt_out_in_turn_and_cores_are_shared_where_there_are_none():
    dealt = [place["CUDA_VISIBLE_DEVICES"] for place in slots(3, devices=["0", "1"])]
    assert dealt == ["0", "1", "0"]
    (alone,) = slots(1, devices=["0", "1"])
    assert alone == {"CUDA_VISIBLE_DEVICES": "0,1"}  # for trainer.devices=2
    threads = [int(place["OMP_NUM_THREADS"]) for place in slots(2, devices=[])]
    assert threads == [max(1, (os.cpu_count() or 1) // 2)] * 2
    assert slots(1, devices=[]) == [{}]


def test_a_launcher_of_hydra_starts_the_run_as_a_sweep_of_one():
    command = run_command_line(["ipc=1"], launcher="submitit_local")
    assert command[2:] == ("--multirun", "hydra/launcher=submitit_local", "ipc=1")
    assert run_command_line(["ipc=1"])[1:] == (command[1], "ipc=1")


def test_the_last_line_of_nothing_is_empty(tmp_path):
    assert last_line(tmp_path / "none") == ""
