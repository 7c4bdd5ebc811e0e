"""Tables of many runs as markdown and on a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from geodm_lightning.reporting.study import Study
from geodm_lightning.reporting.study_lines import (
    COST_HEADINGS,
    DASH,
    DETAIL_HEADINGS,
    GridLine,
    cost_rows,
    datasets_of,
    detail_rows,
    grid,
    study_notes,
)
from geodm_lightning.reporting.tables import markdown_lines

MARKDOWN = "\\|*_`<[]"


def study_to_markdown(study: Study) -> str:
    """Return a table of many runs as GitHub markdown: grid, notes, every cell, cost."""
    headings = ["Method", *(f"{column.dataset} {column.label}" for column in study.columns)]
    rows = [_row(line, len(study.columns)) for line in grid(study)]
    lines = [
        f"# {_escape(study.title)}",
        "",
        *markdown_lines([_escape(h) for h in headings], rows),
        "",
        *(f"- {_escape(note)}" for note in study_notes(study)),
        "",
        *_part("Every cell", DETAIL_HEADINGS, detail_rows(study)),
        *_part("Cost", COST_HEADINGS, cost_rows(study)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _part(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    escaped = [[_escape(cell) for cell in row] for row in rows]
    return [f"## {title}", "", *markdown_lines([_escape(h) for h in headings], escaped), ""]


def _row(line: GridLine, width: int) -> list[str]:
    if line.kind == "group":
        return [f"**{_escape(line.label)}**", *("" for _ in range(width))]
    label = _escape(line.label) if line.kind == "ours" else f"&nbsp;&nbsp;{_escape(line.label)}"
    best = line.best or (False,) * len(line.cells)
    return [
        label,
        *(
            f"**{_escape(cell)}**" if leads else _escape(cell)
            for cell, leads in zip(line.cells, best, strict=True)
        ),
    ]


def study_to_terminal(study: Study) -> list[Table]:
    """Return the grid of a table of many runs for rich to print, a table per data set."""
    tables, left = [], 0
    for dataset, count in datasets_of(study.columns):
        own = slice(left, left + count)
        table = Table(title=Text(f"{study.title}: {dataset}"), title_justify="left")
        table.add_column("Method")
        for column in study.columns[own]:
            table.add_column(Text(column.label), justify="right")
        for line in grid(study):
            _add_line(table, line, own)
        tables.append(table)
        left += count
    return tables


def _add_line(table: Table, line: GridLine, own: slice) -> None:
    """Add the part of a line that belongs to one data set, unless nothing is published there."""
    cells, best = line.cells[own], line.best[own] or (False,) * len(line.cells[own])
    if line.kind == "published" and not any(cell.strip(DASH) for cell in cells):
        return
    style = {"group": "bold", "published": "dim"}.get(line.kind, "")
    marked = [
        Text(cell, style="bold" if leads else "") for cell, leads in zip(cells, best, strict=True)
    ]
    table.add_row(Text(line.label), *marked, style=style)


def _escape(text: str) -> str:
    for character in MARKDOWN:
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
