"""The short way to say a sweep, and its summary by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHORT = {"trials": "num_trials", "repeats": "repeats", "name": "name"}


def run_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``experiments/run.py`` that a short way of saying a sweep means.

    Args:
        arguments: A sweep file; ``trials=``, ``jobs=``, ``repeats=`` and ``name=`` of the sweep;
            and settings of its runs.

    Example:
        >>> run_arguments(["sweeps/curvature.yaml", "trials=24", "ipc=1"])[2:]
        ['hydra.sweeper.space=sweeps/curvature.yaml', 'hydra.sweeper.num_trials=24', 'ipc=1']
    """
    space, *rest = arguments
    told = ["-m", "hydra/sweeper=optuna", f"hydra.sweeper.space={space}"]
    for argument in rest:
        key, _, value = argument.partition("=")
        if key == "jobs":
            several = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={value}"]
            told += several if value != "1" else []
        else:
            told.append(f"hydra.sweeper.{SHORT[key]}={value}" if key in SHORT else argument)
    return told


def summarise(path: Path) -> str:
    """Write the summary of a sweep into the folder beside its file.

    Args:
        path: ``RUN_DIR/NAME.sqlite``.

    Returns:
        One line that tells how far the sweep is.

    Raises:
        InputError: If the file holds no sweep.
    """
    from geodm_lightning.sweeps.page import write_page
    from geodm_lightning.sweeps.summary import write_trials
    from geodm_lightning.sweeps.trials import open_study

    study, folder = open_study(path), path.with_suffix("")
    write_page(study, folder)
    return write_trials(study, folder)
