"""The lines of a table of many runs: its grid, every cell, costs, notes and sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from geodm_lightning.reporting.notes import share
from geodm_lightning.reporting.study import (
    UNITS,
    Measured,
    Reported,
    Study,
    StudyCell,
    StudyColumn,
    StudyGroup,
    StudyRow,
)

DASH = "–"
DETAIL_HEADINGS = (
    "Cell", "Ours", "95 % interval", "Seeds × students", "Published", "Difference", "Iterations",
    "Epochs", "Protocol",
)  # fmt: skip
COST_HEADINGS = ("Cell", "s per iteration", "Making, s", "Peak memory, GB", "Students, s", "Device")


class GridLine(NamedTuple):
    """A line of the grid.

    Attributes:
        kind: ``"group"``, ``"ours"`` or ``"published"``.
        label: First cell.
        cells: The others; none for a group.
        best: Which of them lead their group and column beyond chance.
    """

    kind: str
    label: str
    cells: tuple[str, ...] = ()
    best: tuple[bool, ...] = ()


def number(value: float, measure: str) -> str:
    """Return a value as readers see it: one decimal for percent, three digits otherwise.

    Example:
        >>> number(48.9123, "accuracy"), number(0.73456, "seconds")
        ('48.9', '0.735')
    """
    return f"{value:.1f}" if measure == "accuracy" else f"{value:.3g}"


def spread(value: float, std: float | None, measure: str) -> str:
    """Return a value and its deviation where there is one.

    Example:
        >>> spread(48.9, 0.6, "accuracy"), spread(0.73, None, "seconds")
        ('48.9 ± 0.6', '0.73')
    """
    return number(value, measure) + ("" if std is None else f" ± {number(std, measure)}")


def footnotes(study: Study) -> dict[tuple[str, str], int]:
    """Return the number of every source and note of published values, in order of appearance."""
    told: dict[tuple[str, str], int] = {}
    for _, _, _, cell in study.cells():
        if cell.reported is not None:
            told.setdefault((cell.reported.source, cell.reported.note), len(told) + 1)
    return told


def grid(study: Study) -> list[GridLine]:
    """Return the lines of the table: ours, and what is published right below."""
    marks = footnotes(study)
    lines = []
    for group in study.groups:
        lines.append(GridLine("group", group.label))
        for row in group.rows:
            cells = [row.cells.get(c.key, StudyCell(None, None)) for c in study.columns]
            pairs = list(zip(cells, study.columns, strict=True))
            ours = [
                DASH if cell.ours is None else spread(cell.ours.value, cell.ours.std, c.measure)
                for cell, c in pairs
            ]
            lines.append(GridLine("ours", row.label, tuple(ours), tuple(c.is_best for c in cells)))
            reported = [
                DASH if r is None
                else f"{spread(r.value, r.std, c.measure)} [{marks[r.source, r.note]}]"
                for r, c in ((cell.reported, c) for cell, c in pairs)
            ]  # fmt: skip
            if any(text != DASH for text in reported):
                lines.append(GridLine("published", "published", tuple(reported)))
            elif row.unpublished:
                empty = (row.unpublished, *("" for _ in cells[1:]))
                lines.append(GridLine("published", "published", empty))
    return lines


def detail_rows(study: Study) -> list[tuple[str, ...]]:
    """Return a line for every measured cell, as :data:`DETAIL_HEADINGS` names its entries."""
    return [
        _details(group, row, column, cell.ours, cell.reported)
        for group, row, column, cell in study.cells()
        if cell.ours is not None
    ]


def _details(
    group: StudyGroup, row: StudyRow, column: StudyColumn, m: Measured, reported: Reported | None
) -> tuple[str, ...]:
    measure = column.measure
    interval = DASH if m.interval is None else " to ".join(number(x, measure) for x in m.interval)
    told = difference = DASH
    if reported is not None:
        told = spread(reported.value, reported.std, measure)
        gap = m.value - reported.value
        difference = ("+" if gap >= 0 else "−") + number(abs(gap), measure)
    protocol = f"{m.protocol} {m.digest}"
    return (
        f"{column.key}/{row.key}", spread(m.value, m.std, measure), interval,
        f"{m.seeds} × {m.students // m.seeds}", told, difference,
        DASH if m.iterations is None else share(m.iterations), share(m.epochs),
        protocol if m.tested_on == "test" else f"{protocol}, {m.tested_on} images",
    )  # fmt: skip


def cost_rows(study: Study) -> list[tuple[str, ...]]:
    """Return the cost of every measured cell, as :data:`COST_HEADINGS` names its entries."""
    rows = {}
    for _, row, column, cell in study.cells():
        if cell.ours is None:
            continue
        cost = cell.ours.cost
        optional = (cost.seconds_per_iteration, cost.seconds, cost.peak_memory)
        step, seconds, memory = (DASH if x is None else x for x in optional)
        rows[f"{column.key}/{row.key}"] = (
            f"{column.key}/{row.key}",
            step if isinstance(step, str) else f"{step:.3g}",
            seconds if isinstance(seconds, str) else f"{seconds:.0f}",
            memory if isinstance(memory, str) else f"{memory / 1e9:.3g}",
            f"{cost.student_seconds:.0f}",
            cost.device,
        )
    return list(rows.values())


def study_notes(study: Study) -> list[str]:
    """Return what must be known to read the table, protocols and sources included."""
    measured = [cell.ours for _, _, _, cell in study.cells() if cell.ours is not None]
    units = sorted({UNITS[column.measure] for column in study.columns})
    lines = [*study.notes, f"Unit: {' or '.join(units)}."]
    if measured:
        lines.append(
            "Ours: mean ± sample standard deviation over all students, last epoch; 95 % interval "
            "by Student's t over seeds. Bold: ahead of the next row of its group and column by a "
            "two-sided paired t-test over seeds at p < 0.05, uncorrected for many tests."
        )
    lines += [*_protocol_notes(study), *_schedule_notes(study)]
    lines += [
        f"[{mark}] {source}{f'; {note}' if note else ''}."
        for (source, note), mark in footnotes(study).items()
    ]
    return [*lines, *(f"Refused: {problem}" for problem in study.problems)]


def _protocol_notes(study: Study) -> Iterator[str]:
    """Say under which protocol each group was judged, and where it differs between columns."""
    for group in study.groups:
        told: dict[str, dict[str, None]] = {}
        for own, _, column, cell in study.cells():
            if own.key == group.key and cell.ours is not None:
                name = f"{cell.ours.protocol} {cell.ours.digest} ({share(cell.ours.epochs)})"
                told.setdefault(name, {})[column.key] = None
        if told:
            listed = "; ".join(f"{name} in {', '.join(columns)}" for name, columns in told.items())
            yield f"{group.label}: protocol, digest and share of its epochs: {listed}."


def _schedule_notes(study: Study) -> Iterator[str]:
    """Say what share of its published iterations each row ran."""
    told: dict[str, dict[str, None]] = {}
    for _, row, _, cell in study.cells():
        if cell.ours is not None and cell.ours.iterations is not None:
            told.setdefault(share(cell.ours.iterations), {})[row.label] = None
    if told:
        listed = "; ".join(f"{part} by {', '.join(labels)}" for part, labels in told.items())
        yield f"Share of the published iterations: {listed}."


def datasets_of(columns: Sequence[StudyColumn]) -> list[tuple[str, int]]:
    """Return the headings over neighbouring columns of one data set, with their widths."""
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.dataset:
            spans[-1] = (column.dataset, spans[-1][1] + 1)
        else:
            spans.append((column.dataset, 1))
    return spans
