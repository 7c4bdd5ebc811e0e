"""The runs behind a table: one for every group of rows and experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from geodm_lightning.tables.cells import Cell, Table


class PlannedRun(NamedTuple):
    """A run that cells of a table come from.

    Attributes:
        name: Name of its folder.
        overrides: Of ``experiments/run.py``, without where it writes and its name.
        cells: Cells that it fills.
    """

    name: str
    overrides: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def results(self) -> tuple[str, ...]:
        """Keys that its ``results.json`` must hold."""
        return tuple(dict.fromkeys(cell.result for cell in self.cells))


def planned_runs(
    table: Table, *, schedule: str | None = None, overrides: Sequence[str] = ()
) -> list[PlannedRun]:
    """Return the runs of a table, one for every group and experiment.

    Args:
        table: The table.
        schedule: Schedule of all runs and ending of their names, None for each experiment's own.
        overrides: Settings of all runs; they win over the table's.
    """
    cells: dict[str, list[Cell]] = {}
    for cell in table.cells():
        cells.setdefault(f"{cell.column.run}_{cell.group.key}", []).append(cell)
    ending = "" if schedule is None else f"_{schedule}"
    chosen = () if schedule is None else (f"schedule={schedule}",)
    return [
        PlannedRun(
            f"{name}{ending}",
            merged_overrides(*_overrides_of(own[0]), *chosen, *overrides),
            tuple(own),
        )
        for name, own in cells.items()
    ]


def _overrides_of(cell: Cell) -> tuple[str, ...]:
    column, group = cell.column, cell.group
    experiment = f"+experiment={column.experiment}"
    special = group.columns.get(column.run, ())
    return (experiment, *column.overrides, *group.overrides, *special)


def merged_overrides(*overrides: str) -> tuple[str, ...]:
    """Return overrides with each setting once: the last one wins, at the place of the first.

    Example:
        >>> merged_overrides("strategy=dm", "ipc=1", "strategy=ncfm")
        ('strategy=ncfm', 'ipc=1')
    """
    return tuple({override.partition("=")[0]: override for override in overrides}.values())
