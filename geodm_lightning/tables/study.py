"""Results of a table's runs as what its pages show."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.comparison import compare
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.reporting.study import (
    Cost,
    Measured,
    Reported,
    Study,
    StudyCell,
    StudyColumn,
    StudyGroup,
    StudyRow,
)
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.tables.cells import Cell, Group, Published, Table
from geodm_lightning.tables.state import REFUSED, RunState

SIGNIFICANT = 0.05
GIGABYTE = 1e9
ALIKE = 1e-9  # of accuracies, which are shares of whole images


def build_study(table: Table, states: Sequence[RunState]) -> Study:
    """Put the results of a table's runs where its cells are.

    Args:
        table: The chosen columns and groups.
        states: Its runs; what is refused stays a dash and is named below the table.
    """
    results = {
        cell.key: state.results[cell.result]
        for state in states
        for cell in state.run.cells
        if cell.result in state.results
    }
    best = set(itertools.chain.from_iterable(_best_cells(table, g, results) for g in table.groups))
    return Study(
        key=table.key,
        title=table.title,
        notes=table.notes,
        columns=tuple(StudyColumn(c.key, c.label, c.dataset, c.measure) for c in table.columns),
        groups=tuple(_group(table, group, results, best) for group in table.groups),
        problems=tuple(f"{s.run.name}: {s.reason}" for s in states if s.state == REFUSED),
    )


def _group(
    table: Table, group: Group, results: Mapping[str, EvaluationResult], best: set[str]
) -> StudyGroup:
    rows: dict[str, dict[str, StudyCell]] = {row.key: {} for row in group.rows}
    for cell in table.cells():
        if cell.group.key == group.key:
            result = results.get(cell.key)
            ours = None if result is None else measured(result, cell.column.measure)
            told = None if cell.published is None else reported(cell.published)
            is_best = ours is not None and cell.key in best
            rows[cell.row.key][cell.column.key] = StudyCell(ours, told, is_best)
    return StudyGroup(
        group.key,
        group.label,
        tuple(StudyRow(r.key, r.label, r.unpublished, rows[r.key]) for r in group.rows),
    )


def measured(result: EvaluationResult, measure: str) -> Measured | None:
    """Return what a result says of one measure, None where it does not tell.

    Args:
        result: The seeds of a cell, merged.
        measure: ``"accuracy"`` in percent, ``"seconds"`` per iteration, ``"memory"`` in gigabytes.
    """
    protocol = result.protocol
    if measure == "accuracy":
        interval = result.interval()
        value, std = 100 * result.mean, None if result.std is None else 100 * result.std
        bounds = None if interval is None else (100 * interval.low, 100 * interval.high)
    else:
        name, unit = {
            "seconds": ("seconds_per_iteration", 1.0),
            "memory": ("peak_memory_bytes", GIGABYTE),
        }[measure]
        values = [v / unit for v in _costs(result, name)]
        if not values:
            return None
        value, std = statistics.fmean(values), None
        std = statistics.stdev(values) if len(values) > 1 else None
        bounds = None
    return Measured(
        value=value,
        std=std,
        interval=bounds,
        seeds=len(result.seeds),
        students=len(result.students),
        iterations=result.schedule_share,
        epochs=protocol.fraction,
        protocol=protocol.name,
        digest=protocol.digest(),
        tested_on=result.tested_on,
        cost=cost_of(result),
    )


def cost_of(result: EvaluationResult) -> Cost:
    """Return what the sets and students of a result took, means over the seeds."""
    step, making, memory = (
        statistics.fmean(values) if (values := _costs(result, name)) else None
        for name in ("seconds_per_iteration", "seconds", "peak_memory_bytes")
    )
    told = result.provenance
    parts = [told, *(part for part in told.values() if isinstance(part, dict))]
    device = next((str(part["device"]) for part in parts if "device" in part), "unknown")
    seconds = sum(student.seconds for student in result.students) / len(result.seeds)
    return Cost(step, making, memory, student_seconds=seconds, device=device)


def reported(published: Published) -> Reported:
    """Return a published value as pages show it."""
    doubt = "" if published.verified else "not verified"
    note = "; ".join(part for part in (published.note, doubt) if part)
    return Reported(published.value, published.std, published.source, note)


def _costs(result: EvaluationResult, name: str) -> list[float]:
    values = [cost.get(name) for cost in result.costs.values()]
    return [float(value) for value in values if value is not None]


def _best_cells(
    table: Table, group: Group, results: Mapping[str, EvaluationResult]
) -> Iterable[str]:
    """Return the cells that lead their group and column beyond chance, at most one a column."""
    for column in table.columns:
        here = [
            cell
            for cell in table.cells()
            if cell.group.key == group.key and cell.column.key == column.key
        ]
        ranked = sorted(
            (cell for cell in here if cell.key in results),
            key=lambda cell: results[cell.key].mean,
            reverse=True,
        )
        if column.measure == "accuracy" and len(ranked) > 1 and _leads(ranked, results):
            yield ranked[0].key


def _leads(ranked: Sequence[Cell], results: Mapping[str, EvaluationResult]) -> bool:
    """Whether the first is ahead of the second by a paired test over their common seeds."""
    first, second = (results[cell.key] for cell in ranked[:2])
    comparable = (
        first.seeds == second.seeds
        and len(first.seeds) > 1
        and first.supervision == second.supervision
        and first.teachers == second.teachers
    )
    return comparable and _differ(first, second) and compare(first, second).p < SIGNIFICANT


def _differ(first: EvaluationResult, second: EvaluationResult) -> bool:
    """Whether differences vary between seeds at all, without which there is nothing to test."""
    theirs = second.seed_means
    gaps = [mean - theirs[seed] for seed, mean in first.seed_means.items()]
    return max(gaps) - min(gaps) > ALIKE


def sets_of(states: Sequence[RunState]) -> dict[str, dict[str, DistilledSet]]:
    """Return the sets behind the cells, by column and row, of the first seed that is there."""
    found: dict[str, dict[str, DistilledSet]] = {}
    for state in states:
        for cell in state.run.cells:
            path = None if cell.result not in state.results else _set_folder(state, cell)
            if path is not None:
                title = f"{cell.column.dataset} {cell.column.label} · {cell.group.label}"
                found.setdefault(title, {})[cell.row.label] = load_set(path)
    return found


def _set_folder(state: RunState, cell: Cell) -> Path | None:
    result = state.results[cell.result]
    folder = RunFolder(state.folder / str(result.seeds[0]))
    paths = [folder.distilled(result.method, is_main=is_main) for is_main in (False, True)]
    return next((path for path in paths if (path / "manifest.json").is_file()), None)


def configurations_of(states: Sequence[RunState]) -> dict[str, str]:
    """Return the configuration of every run that is there, of its first seed."""
    found = {}
    for state in states:
        if state.results:
            seed = min(result.seeds[0] for result in state.results.values())
            path = RunFolder(state.folder / str(seed)).config
            if path.is_file():
                found[state.run.name] = path.read_text(encoding="utf-8")
    return found
