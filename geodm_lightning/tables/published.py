"""Ours against a published value: the difference, and whether it is within what was allowed."""

from __future__ import annotations

from typing import NamedTuple

from geodm_lightning.reporting.study import Measured
from geodm_lightning.reporting.study_lines import number, spread
from geodm_lightning.tables.cells import Cell, Table
from geodm_lightning.types import InputError

STDS = 2.0  # published deviations that count as reproduced; ours


class Verdict(NamedTuple):
    """How far ours is from the published value.

    Attributes:
        difference: Ours minus published, in the unit of the column.
        tolerance: The largest that was allowed.
        rule: Where the tolerance is from.
    """

    difference: float
    tolerance: float
    rule: str

    @property
    def is_reproduced(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance


def tolerance_of(cell: Cell, table: Table, *, asked: float | None) -> tuple[float, str]:
    """Return how far a cell may be from its published value, and by which rule.

    Asked for on the command line, else stated for the cell, else two published standard
    deviations, and never less than the table's.

    Raises:
        InputError: If nothing is published for the cell, or it was never verified.
    """
    published = cell.published
    if published is None:
        reason = cell.row.unpublished or "nothing is published for it"
        having = [other.key for other in table.cells() if other.published is not None]
        known = f"; choose among {', '.join(having[:6])}" if having else ""
        raise InputError(f"cell {cell.key} cannot be judged: {reason}{known}")
    if asked is not None:
        return float(asked), "asked for"
    if published.tolerance is not None:
        return published.tolerance, "stated for the cell"
    if not published.verified:
        raise InputError(
            f"the published value of {cell.key} is {published.source}; "
            "judge it by a tolerance of yours, tolerance=POINTS"
        )
    deviations = STDS * (published.std or 0.0)
    if deviations > table.tolerance:
        return deviations, f"{STDS:g} published standard deviations"
    return table.tolerance, "of the table"


def judge(ours: Measured, published: float, *, tolerance: float, rule: str) -> Verdict:
    """Return how far ours is from a published value."""
    return Verdict(ours.value - published, tolerance, rule)


def verdict_line(cell: Cell, ours: Measured, verdict: Verdict) -> str:
    """Return published | ours | difference | seeds | cost in one line."""
    published, measure = cell.published, cell.column.measure
    assert published is not None
    sign = "+" if verdict.difference >= 0 else "−"
    making = ours.cost.seconds or 0.0
    cost = f"{(making + ours.cost.student_seconds) * ours.seeds / 3600:.2g} h on {ours.cost.device}"
    return (
        f"{cell.key}: published {spread(published.value, published.std, measure)} | "
        f"ours {spread(ours.value, ours.std, measure)} | "
        f"difference {sign}{number(abs(verdict.difference), measure)} | "
        f"{ours.seeds} seeds × {ours.students // ours.seeds} students | {cost}"
    )
