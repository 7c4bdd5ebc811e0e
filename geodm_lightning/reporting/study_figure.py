"""Tables of many runs as a figure: a panel per column, ours beside what was published."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geodm_lightning.reporting.figures import WIDTH, shorten
from geodm_lightning.reporting.study import UNITS, Measured, Study, StudyColumn
from geodm_lightning.reporting.theme import FONT_SIZE, LIGHT, Theme, new_figure, style_axes

PANELS = 3  # side by side
OURS, PUBLISHED = "ours, 95 % interval", "published"


def study_figure(study: Study, *, theme: Theme = LIGHT) -> Figure | None:
    """Draw every column that has a measured cell.

    Args:
        study: The table.
        theme: Colours.

    Returns:
        The figure, None where nothing is measured.
    """
    columns = [
        column
        for column in study.columns
        if any(own.key == column.key and cell.ours for _, _, own, cell in study.cells())
    ]
    if not columns:
        return None
    rows = [(group.label, row) for group in study.groups for row in group.rows]
    across = min(PANELS, len(columns))
    down = math.ceil(len(columns) / across)
    figure = new_figure(theme, width=WIDTH, height=0.5 + down * (0.55 + 0.2 * len(rows)))
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes, column in zip(panels, columns, strict=False):
        _draw(axes, study, column, theme)
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    panels[0].set_yticks(range(len(rows)), [shorten(row.label, 18) for _, row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = _handles(list(panels[: len(columns)]))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False,
        fontsize=FONT_SIZE - 1, labelcolor=theme.ink,
    )  # fmt: skip
    return figure


def _draw(axes: Axes, study: Study, column: StudyColumn, theme: Theme) -> None:
    style_axes(axes, theme, grid="x")
    axes.set_title(f"{column.dataset} {column.label}", fontsize=FONT_SIZE, color=theme.ink)
    axes.set_xlabel(UNITS[column.measure])
    axes.tick_params(axis="y", labelcolor=theme.ink, labelsize=FONT_SIZE - 1)
    place = -1
    for index, group in enumerate(study.groups):
        if index:
            axes.axhline(place + 0.5, color=theme.grid, linewidth=0.8)
        for row in group.rows:
            place += 1
            cell = row.cells.get(column.key)
            if cell is None:
                continue
            if cell.reported is not None:
                axes.plot(
                    [cell.reported.value], [place], marker="D", markersize=4.5, linestyle="none",
                    markerfacecolor="none", markeredgecolor=theme.colours[1], label=PUBLISHED,
                )  # fmt: skip
            if cell.ours is not None:
                _draw_ours(axes, cell.ours, place, theme)


def _draw_ours(axes: Axes, ours: Measured, place: int, theme: Theme) -> None:
    low, high = ours.interval or (ours.value, ours.value)
    axes.errorbar(
        [ours.value], [place], xerr=[[ours.value - low], [high - ours.value]], fmt="o",
        markersize=4, color=theme.colours[0], elinewidth=1.2, capsize=2, label=OURS,
    )  # fmt: skip


def _handles(panels: list[Axes]) -> tuple[list[Any], list[str]]:
    """Return one handle for each kind of mark in any panel."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
