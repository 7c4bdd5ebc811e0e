"""The trials of a sweep in an SQLite file: asked, finished, and taken up again after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geodm_lightning.run_folder import differences
from geodm_lightning.sweeps.locks import TRACES, alone, is_present, present
from geodm_lightning.sweeps.proposals import Direction, direction, distributions, propose
from geodm_lightning.sweeps.space import Point, Space
from geodm_lightning.types import InputError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ORIGIN = "origin"  # attribute of a study: what it was begun for
SWEEPER = "sweeper"  # attribute of a trial: who runs it
REPEATS = "repeats"  # attribute of a study: accuracies of the experiment as it stands
ERROR = "error"  # attribute of a trial: why it failed
PATIENCE = 60.0  # seconds a process waits for another to have written


class Trial(NamedTuple):
    """A point to be tried.

    Attributes:
        number: Position in the sweep, from 0.
        point: The values.
    """

    number: int
    point: Point


class Trials:
    """The trials of a sweep, shared by all processes that work at it.

    Args:
        study: Optuna's study.
        space: What is varied.
        num_trials: Trials of the sweep in all, failed ones included.
        seed: Seed of the proposals.
        folder: Where the runs of the sweep are.
        me: Name of this sweeper among those at work.
    """

    def __init__(
        self, study: Study, space: Space, *, num_trials: int, seed: int, folder: Path, me: str
    ) -> None:
        self.study, self.folder = study, folder
        self._space, self._num_trials, self._seed = space, num_trials, seed
        self._traces, self._me = folder / TRACES, me

    @property
    def best(self) -> float | None:
        """Accuracy of the best finished trial, None where there is none."""
        trials = self.study.get_trials(deepcopy=False)
        values = [trial.value for trial in trials if trial.value is not None]
        return (max if self._space.maximise else min)(values, default=None)

    @property
    def failures(self) -> list[str]:
        """Why trials failed, in their order."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]

    @property
    def repeats(self) -> dict[int, float]:
        """Accuracies of the experiment as it stands, by seed."""
        kept = self.study.user_attrs.get(REPEATS, {})
        return {int(seed): value for seed, value in kept.items()}

    def keep_repeat(self, seed: int, value: float) -> None:
        """Keep the accuracy of the experiment as it stands under a seed."""
        with alone(self._traces / "lock"):
            self.study.set_user_attr(REPEATS, {**self.repeats, seed: value})

    def take(self, limit: int) -> list[Trial]:
        """Return the next trials for this sweeper to run: first those whose sweeper is gone.

        Args:
            limit: How many at most.
        """
        with alone(self._traces / "lock"):
            taken = [self._adopt(trial.number) for trial in self._orphans()[:limit]]
            while len(taken) < limit and (number := self._next_number()) is not None:
                taken.append(self._begin(number))
        return taken

    def finish(self, trial: Trial, value: float) -> None:
        """Keep the value of a trial; one that is no number is a failure."""
        if math.isfinite(value):
            with alone(self._traces / "lock"):
                self.study.tell(trial.number, value)
        else:
            self.fail(trial, f"the accuracy is {value}")

    def fail(self, trial: Trial, line: str) -> None:
        """Keep that a trial failed, and why."""
        from optuna.trial import TrialState

        with alone(self._traces / "lock"):
            self._handle(trial.number).set_user_attr(ERROR, line)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _orphans(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        # One without a sweeper was killed between being asked and being signed.
        return [
            trial
            for trial in running
            if not is_present(self._traces, trial.user_attrs.get(SWEEPER, "nobody"))
        ]

    def _next_number(self) -> int | None:
        """Return the number of the next trial to begin, None when all have begun."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        if waiting:
            return waiting[0]
        return len(trials) if len(trials) < self._num_trials else None

    def _begin(self, number: int) -> Trial:
        """Write a point down whole, then begin it: a kill between leaves it waiting."""
        from optuna.trial import TrialState, create_trial

        if number == len(self.study.get_trials(deepcopy=False)):
            complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            point = propose(self._space, complete, seed=self._seed, number=number)
            self.study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    params=point,
                    distributions=distributions(self._space),
                )
            )
        return self._adopt(self.study.ask().number)

    def _adopt(self, number: int) -> Trial:
        handle = self._handle(number)
        handle.set_user_attr(SWEEPER, self._me)
        return Trial(number, {axis.key: handle.params[axis.key] for axis in self._space.axes})

    def _handle(self, number: int) -> Any:
        from optuna.trial import Trial as Handle

        return Handle(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)


@contextmanager
def open_trials(
    path: Path,
    space: Space,
    *,
    num_trials: int,
    seed: int,
    settings: dict[str, Any],
    overrides: Sequence[str] = (),
) -> Iterator[Trials]:
    """Begin a sweep or go on with it.

    Args:
        path: The SQLite file; a folder of the same name without suffix shows who is at work.
        space: What is varied.
        num_trials: Trials in all.
        seed: Seed of the proposals.
        settings: Resolved configuration that the trials change.
        overrides: Overrides that compose it, kept for the summary.

    Raises:
        InputError: If the file is damaged or belongs to another sweep.
    """
    folder = path.with_suffix("")
    traces = folder / TRACES
    varied = {axis.key: axis._asdict() for axis in space.axes}
    sweep = {"method": space.method, "maximise": space.maximise, "seed": seed, "axes": varied}
    origin = json.loads(
        json.dumps({"sweep": sweep, "settings": settings, "overrides": list(overrides)})
    )
    with present(traces) as me:
        with alone(traces / "lock"):
            study = open_study(path, create=direction(space))
            before = study.user_attrs.get(ORIGIN)
            if before is None:
                study.set_user_attr(ORIGIN, origin)
            else:
                _check_same(path, before, origin)
        yield Trials(study, space, num_trials=num_trials, seed=seed, folder=folder, me=me)


def open_study(path: Path, *, create: Direction | None = None) -> Study:
    """Open the study in an SQLite file.

    Args:
        path: The file.
        create: Direction of a study to make where there is none; None makes none.

    Raises:
        InputError: If there is none, or the file is no study.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    if create is None and not path.is_file():
        raise InputError(f"no sweep in {path}; name the .sqlite file of one")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    waiting = {"connect_args": {"timeout": PATIENCE}}
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=waiting)
        if create is None:
            return optuna.load_study(study_name=path.stem, storage=storage)
        return optuna.create_study(
            study_name=path.stem, storage=storage, direction=create, load_if_exists=True
        )
    except (SQLAlchemyError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} holds no sweep of this version: {reason}") from error


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = differences(before["sweep"], now["sweep"], "sweep")
    differing += differences(before["settings"], now["settings"])
    if differing:
        raise InputError(
            f"{path} belongs to another sweep: {'; '.join(differing)}; choose another "
            "hydra.sweeper.name=NAME"
        )
