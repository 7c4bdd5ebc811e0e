"""What each row of a table cost, component by component."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from geodm_lightning.evaluation.result import EvaluationResult, one_per_set
from geodm_lightning.ledger import COMPONENTS
from geodm_lightning.reporting.tables import markdown_lines

HEADINGS = ("Method", "ms per iteration", *COMPONENTS, "geometry + transport")
MEMORY_HEADINGS = ("Method", *COMPONENTS)
NOTES = (
    "Milliseconds per iteration by component, forward and backward, mean over the seeds. Rows that "
    "shared the features of real images are charged for them in full, as if each had run alone.",
    "The last column is the share of geometry and transport in the sum of the components.",
)


class LedgerTable(NamedTuple):
    """The costs of the rows of a table.

    Attributes:
        rows: One line per method: label, milliseconds in all and by component, share.
        memory: One line per method: label and peak MiB by component; empty where not measured.
        notes: How to read them.
    """

    rows: tuple[tuple[str, ...], ...]
    memory: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def build_ledger(results: Sequence[EvaluationResult]) -> LedgerTable | None:
    """Tabulate what the sets of the results cost.

    Args:
        results: Results in the order of the table.

    Returns:
        The table; None if nothing in it was learned.
    """
    measured = [
        r for r in one_per_set(results) if "component_seconds_per_iteration" in _first(r.costs)
    ]
    if not measured:
        return None
    return LedgerTable(
        rows=tuple(_row(result) for result in measured),
        memory=tuple(_memory_row(r) for r in measured if any(_mean(r, "component_peak_bytes"))),
        notes=(*NOTES, *(note for r in measured for note in _skip_notes(r))),
    )


def to_markdown(ledger: LedgerTable) -> str:
    """Return the table as GitHub markdown, the memory and the notes below."""
    lines = [*markdown_lines(HEADINGS, ledger.rows), ""]
    if ledger.memory:
        lines += ["Peak memory, MiB:", "", *markdown_lines(MEMORY_HEADINGS, ledger.memory), ""]
    return "\n".join([*lines, *(f"- {note}" for note in ledger.notes)]) + "\n"


def _first(costs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return next(iter(costs.values()), {})


def _mean(result: EvaluationResult, key: str) -> list[float]:
    """Mean over the seeds of each component."""
    return [
        statistics.fmean(cost[key].get(component, 0) for cost in result.costs.values())
        for component in COMPONENTS
    ]


def _row(result: EvaluationResult) -> tuple[str, ...]:
    seconds = _mean(result, "component_seconds_per_iteration")
    whole = statistics.fmean(c["seconds_per_iteration"] for c in result.costs.values())
    by_name = dict(zip(COMPONENTS, seconds, strict=True))
    share = (by_name["geometry"] + by_name["transport"]) / max(sum(seconds), 1e-12)
    milliseconds = [f"{1000 * value:.1f}" for value in (whole, *seconds)]
    return (result.label, *milliseconds, f"{100 * share:.1f} %")


def _memory_row(result: EvaluationResult) -> tuple[str, ...]:
    peaks = _mean(result, "component_peak_bytes")
    return (result.label, *(f"{peak / 2**20:.1f}" for peak in peaks))


def _skip_notes(result: EvaluationResult) -> list[str]:
    """Say what was saved where a factor of vanished weight was left out."""
    notes = []
    for seed, cost in result.costs.items():
        stretches = cost.get("stretches") or []
        for before, after in itertools.pairwise(stretches):
            spent = [_curved(stretch["seconds_per_iteration"]) for stretch in (before, after)]
            notes.append(
                f"{result.label}, seed {seed}: from {after['from']}, geometry and transport took "
                f"{1000 * spent[1]:.1f} instead of {1000 * spent[0]:.1f} ms per iteration."
            )
    return notes


def _curved(seconds: Mapping[str, float]) -> float:
    return seconds["geometry"] + seconds["transport"]
