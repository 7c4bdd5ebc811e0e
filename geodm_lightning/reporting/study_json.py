"""A table of many runs as plain values."""

from __future__ import annotations

from typing import Any

from geodm_lightning.reporting.study import UNITS, Measured, Study
from geodm_lightning.reporting.study_lines import study_notes


def as_json(study: Study) -> dict[str, Any]:
    """Return the table as values for JSON, a list of cells with all they hold."""
    cells = [
        {
            "cell": f"{column.key}/{row.key}",
            "group": group.key,
            "row": row.label,
            "dataset": column.dataset,
            "column": column.label,
            "unit": UNITS[column.measure],
            "ours": None if cell.ours is None else _plain(cell.ours),
            "published": None if cell.reported is None else cell.reported._asdict(),
            "unpublished": row.unpublished,
            "difference": None
            if cell.ours is None or cell.reported is None
            else cell.ours.value - cell.reported.value,
            "best": cell.is_best,
        }
        for group, row, column, cell in study.cells()
    ]
    return {"table": study.key, "title": study.title, "notes": study_notes(study), "cells": cells}


def _plain(measured: Measured) -> dict[str, Any]:
    return {**measured._asdict(), "cost": measured.cost._asdict()}
