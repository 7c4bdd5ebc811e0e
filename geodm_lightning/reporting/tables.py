"""Results to tables: mean ± standard deviation in percent, and under what protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.reporting.notes import columns_of, describe_protocol, notes
from geodm_lightning.types import InputError

HEADINGS = ("Method", "Images per class", "Accuracy, %", "Students", "Seeds")
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
}


class ResultTable(NamedTuple):
    """Rows that may be compared, with the conditions they share.

    Attributes:
        title: Data set of the table.
        headings: Of the columns.
        rows: One row of cells per result, in the given order; in a grid one per set, with a
            column for everything that students learned from, or for every architecture: the
            rows then tell what students learned from.
        notes: Protocol, supervision, repetitions and share of the published schedule.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def build_table(results: Sequence[EvaluationResult]) -> ResultTable:
    """Put results into one table: a grid for several supervisions or architectures.

    Args:
        results: Results on one data set under one protocol; only the network and the whole-set
            budget, which distilled sets never see, may differ.

    Returns:
        The table.

    Raises:
        InputError: If there are no results, or they cannot be compared.
    """
    if not results:
        raise InputError("no results for a table; evaluate a set first")
    first = results[0]
    for result in results[1:]:
        if result.dataset != first.dataset:
            raise InputError(
                f"{first.label} is on {first.dataset}, {result.label} on {result.dataset}; "
                "make one table per data set"
            )
        if result.tested_on != first.tested_on:
            raise InputError(
                f"{first.label} was tested on {first.tested_on} images, {result.label} on "
                f"{result.tested_on} images; make one table for each"
            )
        like = next(r for r in results if r.architecture == result.architecture).protocol
        alike = like.comparison_digest() == result.protocol.comparison_digest()
        if not alike or like.recipe_digest() != first.protocol.recipe_digest():
            raise InputError(
                f"{first.label} was judged under protocol {describe_protocol(first.protocol)}, "
                f"{result.label} under {describe_protocol(result.protocol)}; "
                "evaluate both under one protocol"
            )
    if len(columns_of(results)) > 1:
        return _grid(results)
    rows = tuple(_row(result) for result in results)
    return ResultTable(title=first.dataset, headings=HEADINGS, rows=rows, notes=notes(results))


def percent(fraction: float, std: float | None = None) -> str:
    """Return a fraction in percent with one decimal, and its deviation where there is one.

    Example:
        >>> percent(0.8456, 0.0123), percent(0.5)
        ('84.6 ± 1.2', '50.0')
    """
    return f"{100 * fraction:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _row(result: EvaluationResult) -> tuple[str, ...]:
    accuracy, students = percent(result.mean, result.std), str(len(result.students))
    return (result.label, _ipc(result), accuracy, students, str(len(result.seeds)))


def _grid(results: Sequence[EvaluationResult]) -> ResultTable:
    """One row per set, one column per supervision or architecture, a dash where nobody learned."""
    columns = columns_of(results)
    labels = tuple(column.label for column in columns)
    if len(set(labels)) < len(labels):
        raise InputError(f"two columns have one label in {', '.join(labels)}; rename one")
    cells: dict[tuple[str, str, str], dict[str, EvaluationResult]] = {}
    for result in results:
        column = next(column for column in columns if column.holds(result))
        row = cells.setdefault((result.method, column.row_label(result), _ipc(result)), {})
        if column.label in row:
            raise InputError(f"{result.full_label} is there twice; merge its seeds first")
        row[column.label] = result
    rows = [
        (label, ipc, *(percent(row[s].mean, row[s].std) if s in row else "–" for s in labels))
        for (_, label, ipc), row in cells.items()
    ]
    headings = (*HEADINGS[:2], *(f"{label}, %" for label in labels))
    counts = dict.fromkeys(
        f"{len(r.students)} students, {len(r.seeds)} seed{'s' if len(r.seeds) > 1 else ''}"
        for r in results
    )
    repeated = f"Each accuracy: {' or '.join(counts)}."
    return ResultTable(results[0].dataset, headings, tuple(rows), (*notes(results), repeated))


def _ipc(result: EvaluationResult) -> str:
    return "all" if result.ipc is None else str(result.ipc)


def to_markdown(table: ResultTable) -> str:
    """Return a table as GitHub markdown, its notes below."""
    lines = [
        f"**{_escape_markdown(table.title)}**",
        "",
        *markdown_lines(
            [_escape_markdown(heading) for heading in table.headings],
            [[_escape_markdown(c) for c in row] for row in table.rows],
        ),
        "",
        *(f"- {_escape_markdown(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def markdown_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return headings, rule and rows as markdown, the first column to the left."""
    rule = "|---|" + "---:|" * (len(headings) - 1)
    return [f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def to_latex(table: ResultTable) -> str:
    """Return a table as a LaTeX ``tabular`` for booktabs, its notes below."""
    rows = [" & ".join(_escape_latex(cell) for cell in row) + r" \\" for row in table.rows]
    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
        r"\toprule",
        " & ".join(_escape_latex(heading) for heading in table.headings) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        "",
        *(_escape_latex(note) + r"\\" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def to_terminal(table: ResultTable) -> Table:
    """Return a table that rich prints, its notes as the caption."""
    rendered = Table(
        title=Text(table.title),
        caption=Text("\n".join(table.notes)),
        title_justify="left",
        caption_justify="left",
    )
    for column, heading in enumerate(table.headings):
        rendered.add_column(Text(heading), justify="right" if column else "left")
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered


def _escape_markdown(text: str) -> str:
    for character in "\\|*_`<":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)
