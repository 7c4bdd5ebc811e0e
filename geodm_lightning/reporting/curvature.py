"""The geometry that each row of a table ended with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from geodm_lightning.evaluation.result import EvaluationResult, one_per_set
from geodm_lightning.reporting.tables import markdown_lines


def geometry_rows(
    results: Sequence[EvaluationResult],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Tabulate curvatures and weights, mean ± sample standard deviation over the seeds.

    Args:
        results: Results in the order of the table.

    Returns:
        Headings and one row per result that has a geometry; a dash where a row lacks a factor.
    """
    measured = [result for result in one_per_set(results) if result.geometries]
    keys = list(dict.fromkeys(k for r in measured for g in r.geometries.values() for k in g))
    keys.sort(key=lambda key: key.startswith("weight/"))
    headings = ("Method", *(key.replace("/", " ") for key in keys))
    rows = [(result.label, *(_cell(result, key) for key in keys)) for result in measured]
    return headings, rows


def to_markdown(results: Sequence[EvaluationResult]) -> str:
    """Return the table of :func:`geometry_rows` as GitHub markdown."""
    return "\n".join(markdown_lines(*geometry_rows(results))) + "\n"


def _cell(result: EvaluationResult, key: str) -> str:
    values = [state[key] for state in result.geometries.values() if key in state]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
