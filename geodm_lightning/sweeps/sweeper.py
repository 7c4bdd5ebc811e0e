"""A Hydra sweeper that runs the search space of a sweep file, resumable and in parallel."""

from __future__ import annotations

import importlib.util
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from geodm_lightning.sweeps.devices import OnOwnDevice
from geodm_lightning.types import InputError

if TYPE_CHECKING:
    from geodm_lightning.sweeps.experiment import Experiment
    from geodm_lightning.sweeps.space import Space
    from geodm_lightning.sweeps.trials import Trial, Trials

PLUGIN = "hydra_plugins.geodm_lightning.StudySweeper"  # Hydra takes plugins of that package alone
BETWEEN_PAGES = 60.0  # seconds
NO_RUN = ".checked"  # name of a run that is never made: a sweep of other settings is told as one
FAILURES_AT_START = 3  # this many failed trials and no finished one end a sweep


def register_sweeper() -> None:
    """Let Hydra find :class:`StudySweeper` under the name that ``hydra/sweeper=optuna`` gives."""
    Plugins.instance().class_name_to_class[PLUGIN] = StudySweeper


class StudySweeper(Sweeper):
    """Runs the trials of a sweep through any launcher, and keeps them in an SQLite file.

    The file is ``RUN_DIR/NAME.sqlite``; runs and summary are in the folder ``RUN_DIR/NAME``. The
    same command goes on with a sweep that was stopped or killed; started twice, two processes
    share the work.

    Args:
        space: Sweep file.
        name: Name of the sweep, None for that in the file.
        num_trials: Trials in all, None for the file's ``run_cap`` or the whole grid.
        num_jobs: Trials at once, None for the launcher's ``n_jobs`` or 1.
        seed: Seed of the proposals.
        repeats: Runs of the experiment as it stands, each with a seed of its own.
    """

    def __init__(
        self,
        space: str,
        name: str | None,
        num_trials: int | None,
        num_jobs: int | None,
        seed: int,
        repeats: int,
    ) -> None:
        super().__init__()
        self._file, self._name, self._seed = Path(space), name, seed
        self._num_trials, self._num_jobs, self._repeats = num_trials, num_jobs, repeats

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take over what Hydra composed, and what a trial runs."""
        self._context, self._config, self._task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> float | None:
        """Run what is missing of the sweep.

        ``trials.csv`` is written after every batch, the page at the end and once a minute.

        Returns:
            Accuracy of the best trial, None where others still run all there are.

        Raises:
            InputError: If the sweep file, the experiment or the sweep's own settings cannot be
                used, which is told before any trial, or if no trial succeeds.
        """
        from geodm_lightning.processes import take_children_along
        from geodm_lightning.sweeps.experiment import AS_IT_STANDS, Experiment, placed
        from geodm_lightning.sweeps.file import read_space
        from geodm_lightning.sweeps.locks import TRACES
        from geodm_lightning.sweeps.trials import open_trials

        if importlib.util.find_spec("optuna") is None:
            raise InputError("a local sweep needs Optuna; pip install 'geodm-lightning[sweeps]'")
        space = read_space(self._file)
        num_trials, num_jobs = self._sizes(space)
        bare = Experiment(self._context, self._config, ())
        experiment = bare._replace(overrides=tuple(bare.changed([*space.fixed, *arguments])))
        name = self._name or space.name
        folder = Path(experiment.check_axes(space, self._file).run_dir) / name
        settings = checked(experiment.composed(placed(folder, NO_RUN)))
        settings["name"] = AS_IT_STANDS
        with read_write(self._config):
            self._config.hydra.sweep.dir = str(folder)  # what a launcher writes goes there, too
        take_children_along()
        self._set_up_launcher(folder / TRACES, num_jobs)
        with open_trials(
            folder.with_name(f"{name}.sqlite"),
            space,
            num_trials=num_trials,
            seed=self._seed,
            settings=settings,
            overrides=experiment.overrides,
        ) as trials:
            self._repeat(trials, experiment, settings, num_jobs)
            self._work(trials, experiment, num_jobs)
            if trials.best is None and trials.failures:
                raise InputError(failed(trials.failures))
            return trials.best

    def _set_up_launcher(self, traces: Path, num_jobs: int) -> None:
        """Make the launcher; where it starts processes here, each has GPUs of its own."""
        from geodm_lightning.processes import slots, visible_gpus

        task = self._task
        if "n_jobs" in self._config.hydra.launcher and (devices := visible_gpus()):
            task = OnOwnDevice(task, traces, slots(num_jobs, devices=devices))
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=task, config=self._config
        )

    def _work(self, trials: Trials, experiment: Experiment, num_jobs: int) -> None:
        """Run trials until there are none left to begin."""
        from geodm_lightning.sweeps.page import write_page

        drawn = time.monotonic()
        while batch := trials.take(num_jobs):
            self._try(trials, batch, experiment)
            if time.monotonic() - drawn > BETWEEN_PAGES:
                write_page(trials.study, trials.folder)
                drawn = time.monotonic()
        write_page(trials.study, trials.folder)

    def _sizes(self, space: Space) -> tuple[int, int]:
        """Return how many trials there are, and how many run at once."""
        wanted = {"num_trials": self._num_trials, "num_jobs": self._num_jobs}
        for key, value in wanted.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"hydra.sweeper.{key} must be at least 1 or null, got {value!r}")
        at_once = self._config.hydra.launcher.get("n_jobs")
        if at_once is not None and (not isinstance(at_once, int) or at_once == 0):
            raise InputError(f"jobs must be a whole number of at least 1, got {at_once!r}")
        num_trials = self._num_trials or space.run_cap
        if space.method == "grid":
            num_trials = min(num_trials or len(space.grid()), len(space.grid()))
        if num_trials is None:
            raise InputError(
                f"{self._file} has no run_cap; say how many trials, hydra.sweeper.num_trials=24"
            )
        num_jobs = self._num_jobs or at_once or 1
        return num_trials, num_jobs if num_jobs > 0 else os.cpu_count() or 1

    def _repeat(
        self, trials: Trials, experiment: Experiment, settings: dict[str, Any], num_jobs: int
    ) -> None:
        """Run the experiment as it stands with several seeds, each once."""
        step = settings["num_seeds"]
        seeds = [settings["seed"] + step * index for index in range(self._repeats)]
        missing = [seed for seed in seeds if seed not in trials.repeats]
        for start in range(0, len(missing), num_jobs):
            some = missing[start : start + num_jobs]
            jobs = [experiment.repeat(seed, trials.folder) for seed in some]
            for seed, outcome in zip(some, self._launch(jobs, first=start), strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                trials.keep_repeat(seed, outcome)

    def _try(self, trials: Trials, batch: Sequence[Trial], experiment: Experiment) -> None:
        """Run trials at once and keep what came of each."""
        from geodm_lightning.sweeps.summary import write_trials

        jobs = [experiment.trial(trial.point, trials.folder) for trial in batch]
        for trial, outcome in zip(batch, self._launch(jobs, first=batch[0].number), strict=True):
            if isinstance(outcome, BaseException):
                trials.fail(trial, line_of(outcome))
                print(f"trial {trial.number} failed: {line_of(outcome)}", flush=True)
            else:
                trials.finish(trial, outcome)
        print(write_trials(trials.study, trials.folder), flush=True)
        if trials.best is None and len(trials.failures) >= FAILURES_AT_START:
            raise InputError(failed(trials.failures))

    def _launch(self, jobs: list[list[str]], *, first: int) -> list[float | BaseException]:
        """Run jobs and return the accuracy of each, or what ended it."""
        try:
            returns = self._launcher.launch(jobs, initial_job_idx=first)
        except HydraException:
            raise
        except Exception as error:  # a process that died takes all jobs of its launcher along
            traceback.print_exception(error)
            return [error] * len(jobs)
        outcomes = []
        for job in returns:
            outcome = job._return_value  # the property would raise it
            if job.status != JobStatus.COMPLETED and not isinstance(outcome, InputError):
                traceback.print_exception(outcome)
            outcomes.append(outcome)
        return outcomes


def checked(config: DictConfig) -> dict[str, Any]:
    """Return the settings of the experiment as it stands, which must be one that can be run.

    Raises:
        InputError: If it cannot, or would tell no accuracy.
    """
    import torch

    from geodm_lightning.pipeline import prepare

    settings = prepare(config, device=torch.device("cpu")).settings
    if settings["estimate"]:
        raise InputError("a sweep is not estimated as a whole; estimate one run of it, without -m")
    if "evaluate" not in settings["stages"]:
        raise InputError("a sweep compares accuracies; add evaluate to stages")
    return settings


def failed(failures: Sequence[str]) -> str:
    """Say that no trial has succeeded, and why."""
    if len(failures) == 1:
        return f"the first trial failed: {failures[0]}"
    return f"the first {len(failures)} trials failed, the last: {failures[-1]}"


def line_of(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
