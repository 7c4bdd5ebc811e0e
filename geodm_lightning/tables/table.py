"""One command for a table: list it, run what is missing, write it."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from geodm_lightning.files import write_json, write_text
from geodm_lightning.reporting.latex import study_to_latex
from geodm_lightning.reporting.study import Study
from geodm_lightning.reporting.study_figure import study_figure
from geodm_lightning.reporting.study_json import as_json
from geodm_lightning.reporting.study_page import write_study
from geodm_lightning.reporting.study_text import study_to_markdown, study_to_terminal
from geodm_lightning.reporting.theme import save_png
from geodm_lightning.tables.estimate import estimate_table
from geodm_lightning.tables.plan import Plan, read_plan
from geodm_lightning.tables.reproduce import reproduce
from geodm_lightning.tables.running import (
    CONSOLE,
    FAILED,
    print_cells,
    run_missing,
    tell_failures,
)
from geodm_lightning.tables.study import build_study, configurations_of, sets_of
from geodm_lightning.types import InputError


def make_table(config: DictConfig) -> int:
    """Do what one command asks of a table.

    Args:
        config: Composed ``configs/table.yaml``.

    Returns:
        Exit code: 0, or 1 where a run failed or was refused, or a cell is not reproduced.

    Raises:
        InputError: If a value cannot be used or names what the table does not have; raised before
            any run is started.
    """
    values: Any = OmegaConf.to_container(config, resolve=False)
    plan = read_plan(_name_of_table(), values)
    check_launcher(plan.options["launcher"])
    if plan.options["list"]:
        print_cells(plan)
        return 0
    if plan.options["estimate"]:
        return estimate_table(plan)
    if plan.options["reproduce"] is not None:
        return reproduce(plan)
    failures = run_missing(plan) if plan.options["run"] else []
    write_table(plan)
    return FAILED if tell_failures(failures) else 0


def write_table(plan: Plan) -> Study:
    """Write a table as markdown, LaTeX, JSON, figure and page, and print it.

    Returns:
        The table as it was written.

    Raises:
        InputError: If a file cannot be written.
    """
    states = [plan.state_of(run, strict=plan.options["run"]) for run in plan.runs]
    study = build_study(plan.table, states)
    folder = plan.output
    write_text(folder / "table.md", study_to_markdown(study))
    write_text(folder / "table.tex", study_to_latex(study))
    write_json(folder / "table.json", as_json(study))
    figure = study_figure(study)
    if figure is not None:
        save_png(figure, folder / "table.png")
    write_study(
        folder / "table.html",
        study,
        sets=sets_of(states),
        configurations=configurations_of(states),
    )
    for part in study_to_terminal(study):
        CONSOLE.print(part)
    CONSOLE.print(f"table: {folder / 'table.html'}")
    return study


def check_launcher(name: str | None) -> None:
    """Check that Hydra has a launcher.

    Raises:
        InputError: If it has not.
    """
    from hydra.core.global_hydra import GlobalHydra

    known = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
    if name is not None and name not in known:
        raise InputError(
            f"unknown launcher {name!r}; choose among {', '.join(known)} (joblib and submitit "
            "come with pip install 'geodm-lightning[sweeps]')"
        )


def _name_of_table() -> str:
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices["table"])
