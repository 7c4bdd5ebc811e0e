"""Trials in an SQLite file: begun once, taken up by another when their sweeper was killed."""

import fcntl
import signal

import pytest
from optuna.trial import TrialState, create_trial

from geodm_lightning.sweeps.locks import alone, is_present, present, undisturbed
from geodm_lightning.sweeps.proposals import distributions, propose
from geodm_lightning.sweeps.space import Axis, Space
from geodm_lightning.sweeps.summary import summarised, to_csv
from geodm_lightning.sweeps.trials import SWEEPER, open_trials
from geodm_lightning.types import InputError
from tests.processes import FORKED

AXES = (Axis("c", low=0.1, high=5.0, is_log=True), Axis("mode", choices=("a", "b")))
SPACE = Space("s", "random", True, AXES, fixed=(), run_cap=None)
SETTINGS = {"data": {"validation": 0.2}, "ipc": 1}


def opened(folder, **changes):
    options = {"num_trials": 6, "seed": 0, "settings": SETTINGS, **changes}
    return open_trials(folder / "s.sqlite", SPACE, **options)


def test_points_are_the_proposals_in_order(tmp_path):
    with opened(tmp_path) as trials:
        taken = [trial for _ in range(3) for trial in trials.take(2)]
        assert [trial.number for trial in taken] == list(range(6))
        assert [t.point for t in taken] == [propose(SPACE, (), seed=0, number=n) for n in range(6)]
        assert trials.take(2) == []
        for trial in taken:
            trials.finish(trial, 0.1 * trial.number)
        assert trials.best == pytest.approx(0.5)


def test_what_a_failed_trial_says_is_kept(tmp_path):
    with opened(tmp_path) as trials:
        first, second, third = trials.take(3)
        trials.fail(first, "line")
        trials.finish(second, float("nan"))
        trials.finish(third, 0.0)
        assert trials.failures == ["line", "the accuracy is nan"]
        assert trials.best == 0.0
        lines = to_csv(summarised(trials.study)).splitlines()
    assert lines[0] == "number,state,accuracy,c,mode,run,error"
    assert lines[1].startswith("0,fail,,")
    assert lines[1].endswith(",line")
    assert lines[3].startswith("2,complete,0.0,")


def begin_three(folder, ready):
    with opened(folder) as trials:
        done, *_ = trials.take(3)
        trials.finish(done, 0.25)
        ready.set()
        signal.pause()


def test_trials_of_a_killed_sweeper_are_taken_up_and_those_of_a_living_one_left(tmp_path):
    ready = FORKED.Event()
    child = FORKED.Process(target=begin_three, args=(tmp_path, ready))
    child.start()
    assert ready.wait(60)
    with opened(tmp_path) as trials:
        assert [trial.number for trial in trials.take(1)] == [3]  # 1 and 2 are being run
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        taken = trials.take(4)
        assert [trial.number for trial in taken] == [1, 2, 4, 5]
        assert [t.point for t in taken] == [
            propose(SPACE, (), seed=0, number=number) for number in (1, 2, 4, 5)
        ]
        assert trials.study.get_trials()[0].value == 0.25


def test_a_kill_between_two_writes_loses_nothing(tmp_path):
    point = propose(SPACE, (), seed=0, number=0)
    with opened(tmp_path) as trials:
        waiting = create_trial(
            state=TrialState.WAITING, params=point, distributions=distributions(SPACE)
        )
        trials.study.add_trial(waiting)  # written down, not begun
        assert trials.take(1) == [(0, point)]
        asked = create_trial(
            state=TrialState.WAITING,
            params=propose(SPACE, (), seed=0, number=1),
            distributions=distributions(SPACE),
        )
        trials.study.add_trial(asked)
        trials.study.ask()  # begun, not signed
        assert SWEEPER not in trials.study.get_trials()[1].user_attrs
        assert [trial.number for trial in trials.take(2)] == [1, 2]


def test_two_sweepers_never_take_the_same_trial(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as other:
        taken = [trial for _ in range(3) for trials in (one, other) for trial in trials.take(1)]
        assert [trial.number for trial in taken] == list(range(6))
        assert len({trial.point["c"] for trial in taken}) == 6


def test_another_sweep_in_the_same_file_is_refused(tmp_path):
    with opened(tmp_path):
        pass
    with opened(tmp_path, num_trials=9, settings={**SETTINGS, "cache_dir": "elsewhere"}):
        pass  # neither changes a result
    for changes, message in (
        ({"seed": 1}, r"sweep.seed \(0 there, 1 now\)"),
        ({"settings": {**SETTINGS, "ipc": 2}}, r"ipc \(1 there, 2 now\)"),
    ):
        with pytest.raises(InputError, match=message), opened(tmp_path, **changes):
            pass


def test_a_name_is_present_while_it_is_held(tmp_path):
    with present(tmp_path) as name, present(tmp_path) as other:
        assert name != other
        assert is_present(tmp_path, name)
    assert not is_present(tmp_path, name)
    (tmp_path / "trace").touch()  # of a sweeper that was killed
    assert not is_present(tmp_path, "trace")
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_the_same_run_in_a_sweep_alone(tmp_path):
    with undisturbed(tmp_path, "x"), undisturbed(tmp_path, "x"):
        assert not list(tmp_path.iterdir())  # no sweep works here
    lock = tmp_path / ".sweepers" / "x.lock"
    lock.parent.mkdir()
    with (
        undisturbed(tmp_path, "x"),
        undisturbed(tmp_path, "y"),
        lock.open("rb") as handle,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with alone(lock):
        pass
