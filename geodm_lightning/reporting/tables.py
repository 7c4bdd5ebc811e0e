"""Results to tables: mean ± standard deviation in percent, and under what protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.result import EvaluationResult
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


class Row(NamedTuple):
    """One line of a table, as it is read."""

    method: str
    ipc: str
    accuracy: str
    students: str
    seeds: str


class ResultTable(NamedTuple):
    """Rows that may be compared, with the conditions they share.

    Attributes:
        title: Data set of the table.
        rows: One row per result, in the given order.
        notes: Protocol, repetitions and share of the published schedule.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_table(results: Sequence[EvaluationResult]) -> ResultTable:
    """Put results into one table.

    Args:
        results: Results on one data set under one protocol; only the whole-set budget, which
            distilled sets never see, may differ.

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
        if result.protocol.comparison_digest() != first.protocol.comparison_digest():
            raise InputError(
                f"{first.label} was judged under protocol {describe_protocol(first.protocol)}, "
                f"{result.label} under {describe_protocol(result.protocol)}; "
                "evaluate both under one protocol"
            )
    rows = tuple(_row(result) for result in results)
    return ResultTable(title=first.dataset, rows=rows, notes=_notes(results))


def percent(fraction: float, std: float | None = None) -> str:
    """Return a fraction in percent with one decimal, and its deviation where there is one.

    Example:
        >>> percent(0.8456, 0.0123), percent(0.5)
        ('84.6 ± 1.2', '50.0')
    """
    return f"{100 * fraction:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def share(fraction: float) -> str:
    """Return a share in percent with two significant digits.

    Example:
        >>> share(1.0), share(0.025), share(0.3333)
        ('100 %', '2.5 %', '33 %')
    """
    return "100 %" if fraction == 1 else f"{100 * fraction:.2g} %"


def _row(result: EvaluationResult) -> Row:
    return Row(
        method=result.label,
        ipc="all" if result.ipc is None else str(result.ipc),
        accuracy=percent(result.mean, result.std),
        students=str(len(result.students)),
        seeds=str(len(result.seeds)),
    )


def describe_protocol(protocol: Protocol) -> str:
    """Return a protocol in one line."""
    p = protocol
    steps = ", ".join(f"{milestone:g}" for milestone in p.milestones)
    momentum = f", momentum {p.momentum:g}" if p.momentum else ""
    schedule = f", ×{p.gamma:g} after {steps} of the schedule" if steps else ""
    cutmix = f", CutMix with probability {p.cutmix_probability:g}" if p.cutmix_probability else ""
    options = ", ".join(f"{key} {value}" for key, value in p.network_options.items())
    return (
        f"{p.name}: {p.network}{f' ({options})' if options else ''}, {p.epochs} epochs of batches "
        f"of {p.batch_size}, {p.optimizer} at {p.lr:g}{momentum}, weight decay "
        f"{p.weight_decay:g}{schedule}; augmentation {p.augmentation} "
        f"({p.augmentation_mode}){cutmix}"
    )


def _notes(results: Sequence[EvaluationResult]) -> tuple[str, ...]:
    protocol = results[0].protocol
    between = ", ".join(
        f"{r.label} {100 * r.std_of_seeds:.1f}" for r in results if r.std_of_seeds is not None
    )
    return (
        f"Protocol {describe_protocol(protocol)}.",
        "Accuracy on the test images after the last epoch, mean ± sample standard deviation "
        "over all students.",
        *([f"Standard deviation between the means of the seeds: {between}."] if between else []),
        f"Students: {share(protocol.fraction)} of the published epochs.",
        *_schedule_notes(results),
        *(
            f"{r.label}: {r.protocol.whole_steps} optimiser steps, a budget of our choice."
            for r in results
            if r.ipc is None
        ),
    )


def _schedule_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say what share of their published iterations the rows ran, one line per share."""
    labels: dict[str, list[str]] = {}
    for result in results:
        if result.schedule_share is not None:
            labels.setdefault(share(result.schedule_share), []).append(result.label)
    return [
        f"{', '.join(names)}: {part} of the published iterations." for part, names in labels.items()
    ]


def to_markdown(table: ResultTable) -> str:
    """Return a table as GitHub markdown, its notes below."""
    lines = [
        f"**{_escape_markdown(table.title)}**",
        "",
        *markdown_lines(HEADINGS, [[_escape_markdown(c) for c in row] for row in table.rows]),
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
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        " & ".join(_escape_latex(heading) for heading in HEADINGS) + r" \\",
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
    for heading in HEADINGS:
        rendered.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered


def _escape_markdown(text: str) -> str:
    for character in "\\|*_`<":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)
