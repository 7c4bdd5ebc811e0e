"""Accuracies to a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.reporting.figures import WIDTH, shorten
from geodm_lightning.reporting.notes import columns_of
from geodm_lightning.reporting.theme import (
    FONT_SIZE,
    LIGHT,
    Theme,
    add_legend,
    new_figure,
    style_axes,
)
from geodm_lightning.types import InputError

GAP = 0.5  # of a bar's pitch, between sets that were taught in several ways


def accuracy_bars(results: Sequence[EvaluationResult], *, theme: Theme = LIGHT) -> Figure:
    """Draw mean accuracies as bars, their standard deviation and every student as a dot.

    Args:
        results: Results in the order of the rows, from top to bottom. Where students learned from
            several things, or are of several architectures, the bars of a set stand together,
            coloured by that.
        theme: Colours.

    Raises:
        InputError: If there is no result.
    """
    if not results:
        raise InputError("no results to draw; evaluate a set first")
    columns = columns_of(results)
    is_grid = len(columns) > 1
    groups: dict[str, list[EvaluationResult]] = {}
    for result in results:
        row = f"{result.method}/{columns[0].row_label(result)}" if is_grid else result.key
        groups.setdefault(row, []).append(result)
    rows = [(group, result) for group, members in groups.items() for result in members]
    gap = GAP if is_grid else 0.0
    order = list(groups)
    places = [row + gap * order.index(group) for row, (group, _) in enumerate(rows)]
    figure = new_figure(theme, width=WIDTH, height=0.55 + 0.48 * (places[-1] + 1 + gap))
    axes = figure.add_subplot()
    style_axes(axes, theme, grid="x")
    for i, column in enumerate(columns):
        own = [
            (place, result)
            for place, (_, result) in zip(places, rows, strict=True)
            if column.holds(result)
        ]
        colour = theme.colours[i % len(theme.colours)]
        _draw(axes, own, colour=colour, theme=theme, label=column.label if is_grid else None)
    middles = [
        float(np.mean([p for p, (own, _) in zip(places, rows, strict=True) if own == group]))
        for group in order
    ]
    labels = [shorten(columns[0].row_label(group[0]), 22) for group in groups.values()]
    axes.set_yticks(middles, labels)
    axes.tick_params(axis="y", labelcolor=theme.ink, labelsize=FONT_SIZE)
    axes.spines["left"].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.22 * max(*(100 * (r.mean + (r.std or 0.0)) for r in results), 1.0))
    axes.set_xlabel("test accuracy after the last epoch, %")
    if is_grid:
        add_legend(axes, theme, columns=min(3, len(columns)))
    return figure


def _draw(
    axes: Axes,
    bars: Sequence[tuple[float, EvaluationResult]],
    *,
    colour: str,
    theme: Theme,
    label: str | None,
) -> None:
    """Draw bars of one colour; without a label, those of whole data sets are muted."""
    places = np.array([place for place, _ in bars])
    results = [result for _, result in bars]
    means = np.array([100 * result.mean for result in results])
    spread = np.array([100 * (result.std or 0.0) for result in results])
    colours = [theme.muted if r.ipc is None and label is None else colour for r in results]
    axes.barh(places, means, height=0.62, color=colours, alpha=0.45, linewidth=0, label=label)
    several = spread > 0
    axes.errorbar(
        means[several],
        places[several],
        xerr=spread[several],
        fmt="none",
        ecolor=theme.ink,
        elinewidth=1.2,
        capsize=3,
        capthick=1.2,
    )
    jitter = torch.linspace(-0.2, 0.2, 7)
    for row, result in enumerate(results):
        dots = [100 * accuracy for accuracy in result.accuracies]
        heights = [places[row] + float(jitter[(3 * i) % 7]) for i in range(len(dots))]
        axes.scatter(dots, heights, s=9, color=colours[row], linewidths=0, zorder=3)
        edge = max(*dots, means[row] + spread[row])
        text = f"{means[row]:.1f}" + ("" if result.std is None else f" ± {spread[row]:.1f}")
        axes.text(edge, places[row], f"  {text}", va="center", color=theme.ink, fontsize=FONT_SIZE)
