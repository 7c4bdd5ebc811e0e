"""Running what is missing of a table, and telling what is there."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from geodm_lightning.processes import slots, visible_gpus
from geodm_lightning.tables.launch import LOG, Job, Outcome, launch, run_command_line
from geodm_lightning.tables.plan import Plan
from geodm_lightning.tables.state import DONE, REFUSED, RunState

CONSOLE = Console(highlight=False, soft_wrap=True)
FAILED = 1


def run_missing(plan: Plan) -> list[str]:
    """Run what is missing of a table, finished runs and students left as they are.

    Returns:
        A line for every run that was refused or failed.

    Raises:
        InputError: If the settings of a run cannot be used; raised before any is started.
    """
    states = chosen_states(plan)
    refused = [f"{s.run.name} is refused: {s.reason}" for s in states if s.state == REFUSED]
    missing = [s for s in states if s.state not in (DONE, REFUSED)]
    for state in missing:
        plan.settings_of(state.run)
    jobs = [_job_of(plan, state) for state in missing]
    outcomes = launch(jobs, environments=places_of(plan), tell=CONSOLE.print)
    return [*refused, *itertools.chain.from_iterable(map(partial(_failure, plan), outcomes))]


def places_of(plan: Plan) -> list[dict[str, str]]:
    """Return the environment of each run at once: a share of this machine, where they run on it."""
    jobs, launcher = plan.options["jobs"], plan.options["launcher"]
    if launcher is not None and "slurm" in launcher:
        return [{} for _ in range(jobs)]  # sbatch would hand a share of this machine to the others
    return slots(jobs, devices=visible_gpus())


def _failure(plan: Plan, outcome: Outcome) -> list[str]:
    """Return a line if a run failed, or ended well but without its results."""
    if outcome.code:
        return [f"{outcome.name} failed with exit code {outcome.code}: {outcome.line}"]
    (run,) = (run for run in plan.runs if run.name == outcome.name)
    state = plan.state_of(run)
    return [] if state.state == DONE else [f"{outcome.name} is {state.state}: {state.reason}"]


def chosen_states(plan: Plan) -> list[RunState]:
    """Return the state of the runs that ``only`` names, of all where it names none."""
    only = plan.options["only"]
    return [plan.state_of(run) for run in plan.runs if only is None or run.name in only]


def _job_of(plan: Plan, state: RunState) -> Job:
    command = run_command_line(plan.overrides_of(state.run), launcher=plan.options["launcher"])
    return Job(state.run.name, command, state.folder / LOG)


def print_cells(plan: Plan) -> None:
    """Print the cells of a table and its runs with their state; nothing is started."""
    states = {run.name: plan.state_of(run) for run in plan.runs}
    cells = Grid(title=Text(plan.table.title), title_justify="left")
    for heading in ("Cell", "Run", "State", "Published"):
        cells.add_column(heading, overflow="fold")
    for run in plan.runs:
        for cell in run.cells:
            state = states[run.name]
            there = DONE if cell.result in state.results and state.state != DONE else state.state
            published = "–" if cell.published is None else f"{cell.published.value:g}"
            cells.add_row(*map(Text, (cell.key, run.name, there, published)))
    CONSOLE.print(cells)
    for state in states.values():
        reason = "" if state.state == DONE else f" ({state.reason})" if state.reason else ""
        CONSOLE.print(Text(f"{state.run.name}: {state.state}{reason}"))


def tell_failures(lines: Sequence[str]) -> bool:
    """Print failures on standard error; return whether there are any."""
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return bool(lines)
