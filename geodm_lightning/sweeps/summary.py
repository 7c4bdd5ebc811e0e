"""What a sweep found: every trial, and the best."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from geodm_lightning.files import write_text
from geodm_lightning.sweeps.space import Axis, Point, name_of_point, overrides_of
from geodm_lightning.sweeps.trials import ERROR, ORIGIN, REPEATS
from geodm_lightning.types import InputError

if TYPE_CHECKING:
    from optuna import Study

SCRIPT = "python experiments/run.py"


class Tried(NamedTuple):
    """A trial that has begun.

    Attributes:
        number: Position in the sweep.
        state: ``"complete"``, ``"fail"`` or ``"running"``.
        accuracy: As a fraction, None where it is not known.
        point: The values.
        error: Why it failed, empty otherwise.
    """

    number: int
    state: str
    accuracy: float | None
    point: Point
    error: str


class Summary(NamedTuple):
    """A sweep as it stands.

    Attributes:
        name: Its name.
        method: How points were chosen.
        maximise: Whether a larger accuracy is better.
        axes: What was varied.
        trials: Trials that have begun, in their order.
        repeats: Accuracies of the experiment as it stands, by seed.
        overrides: What all runs have in common.
        settings: Resolved configuration that the trials changed.
        importances: Shares of the variation by evaluator and axis; empty where they were not
            asked for or there are too few trials.
    """

    name: str
    method: str
    maximise: bool
    axes: tuple[Axis, ...]
    trials: tuple[Tried, ...]
    repeats: dict[int, float]
    overrides: tuple[str, ...]
    settings: dict[str, Any]
    importances: Mapping[str, Mapping[str, float]] = MappingProxyType({})

    @property
    def complete(self) -> list[Tried]:
        """Trials with an accuracy."""
        return [trial for trial in self.trials if trial.accuracy is not None]

    @property
    def ranked(self) -> list[Tried]:
        """Complete trials, the best first, earlier ones first where they are equal."""
        sign = -1 if self.maximise else 1
        return sorted(self.complete, key=lambda trial: sign * (trial.accuracy or 0.0))

    @property
    def best(self) -> Tried:
        """The best trial."""
        return self.ranked[0]

    @property
    def tested_on(self) -> str:
        """Images that the accuracies tell of."""
        share = self.settings["data"].get("validation")
        if not share:
            return "test images"
        return f"{100 * share:g} % of the training images, held out"

    @property
    def noise(self) -> float | None:
        """Standard deviation between seeds of the experiment as it stands, None for one."""
        values = list(self.repeats.values())
        return statistics.stdev(values) if len(values) > 1 else None

    def command(self, trial: Tried, *, run_dir: str, name: str, final: bool = False) -> str:
        """Return the command that repeats a trial.

        Args:
            trial: The trial.
            run_dir: Folder for its run folder.
            name: Name of the run.
            final: Whether to train on all training images and test on the test images.
        """
        left_out = ("run_dir=", "name=", *(("data.validation=",) if final else ()))
        kept = [text for text in self.overrides if not text.startswith(left_out)]
        own = [f"run_dir={run_dir}", f"name={name}"]
        return f"{SCRIPT} {shlex.join([*kept, *overrides_of(trial.point), *own])}"


def summarised(study: Study) -> Summary:
    """Read a study.

    Raises:
        InputError: If it was not made by a sweep of this package.
    """
    origin = study.user_attrs.get(ORIGIN)
    if origin is None:
        raise InputError(f"the study {study.study_name!r} was not made by a sweep of this package")
    begun = [t for t in study.get_trials(deepcopy=False) if t.state.name != "WAITING"]
    sweep = origin["sweep"]
    axes = [
        Axis(**{**axis, "choices": axis["choices"] and tuple(axis["choices"])})
        for axis in sweep["axes"].values()
    ]
    return Summary(
        name=study.study_name,
        method=sweep["method"],
        maximise=sweep["maximise"],
        axes=tuple(axes),
        trials=tuple(
            Tried(t.number, t.state.name.lower(), t.value, t.params, t.user_attrs.get(ERROR, ""))
            for t in begun
        ),
        repeats={int(key): value for key, value in study.user_attrs.get(REPEATS, {}).items()},
        overrides=tuple(origin["overrides"]),
        settings=origin["settings"],
    )


def write_trials(study: Study, folder: Path) -> str:
    """Write every trial as ``trials.csv``.

    Args:
        study: The sweep.
        folder: Where it is written.

    Returns:
        One line that tells how far the sweep is.
    """
    summary = summarised(study)
    write_text(folder / "trials.csv", to_csv(summary))
    begun = f"trials begun: {len(summary.trials)}, finished: {len(summary.complete)}"
    if num_failed := sum(trial.state == "fail" for trial in summary.trials):
        begun += f", failed: {num_failed}"
    if not summary.complete:
        return begun
    best = summary.best
    point = " ".join(overrides_of(best.point))
    return f"{begun}; best {100 * (best.accuracy or 0.0):.2f} % with {point}"


def to_csv(summary: Summary) -> str:
    """Return every trial as a line of a table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = [axis.key for axis in summary.axes]
    writer.writerow(["number", "state", "accuracy", *keys, "run", "error"])
    for trial in summary.trials:
        accuracy = "" if trial.accuracy is None else trial.accuracy
        values = [trial.point.get(key, "") for key in keys]
        run = name_of_point(trial.point)
        writer.writerow([trial.number, trial.state, accuracy, *values, run, trial.error])
    return buffer.getvalue()
