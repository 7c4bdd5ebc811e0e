"""Accuracy over two parameters: every trial where it lies, and a local mean beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geodm_lightning.reporting.figures import WIDTH
from geodm_lightning.reporting.theme import FONT_SIZE, LIGHT, Theme, new_figure, style_axes
from geodm_lightning.sweeps.space import Axis, Value, text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"  # rises evenly in lightness, for every colour vision
WINDOW = 0.12  # of an axis: standard deviation of the local mean's weights
CELLS = 48  # per side of the field
FAINTEST = 0.5  # trials' worth of weight below which the field is left empty


class Place(NamedTuple):
    """A trial on the map.

    Attributes:
        x: Value of the first axis.
        y: Value of the second axis.
        accuracy: As a fraction.
    """

    x: Value
    y: Value
    accuracy: float


def heat_map(
    places: Sequence[Place], x_axis: Axis, y_axis: Axis, *, theme: Theme = LIGHT
) -> Figure:
    """Draw accuracy over two axes.

    The upper panel shows trials as they are, nothing between them. The lower one shows a mean of
    the trials nearby, weighted by a Gaussian of 12 % of an axis, and only where there are some.

    Args:
        places: Finished trials, at least one.
        x_axis: First axis.
        y_axis: Second axis.
        theme: Colours.
    """
    xs, ys = (
        [position(value, axis) for value in values]
        for values, axis in (
            ([place.x for place in places], x_axis),
            ([place.y for place in places], y_axis),
        )
    )
    percent = np.array([100 * place.accuracy for place in places])
    low, high = float(percent.min()), float(percent.max())
    figure = new_figure(theme, width=WIDTH, height=8.2)
    upper, lower = figure.subplots(2, 1)
    for axes, title in ((upper, "trials"), (lower, "local mean of the trials (smoothed)")):
        style_axes(axes, theme, grid="y")
        axes.grid(visible=False)
        axes.set_title(title, fontsize=FONT_SIZE, color=theme.ink, loc="left")
        _label(axes, x_axis, y_axis)
    field = local_mean(np.array(xs), np.array(ys), percent)
    options = {"cmap": COLOURS, "vmin": low, "vmax": high}
    lower.imshow(field, extent=(0, 1, 0, 1), origin="lower", aspect="auto", **options)
    lower.scatter(xs, ys, s=6, color=theme.background, linewidths=0.5, edgecolors=theme.ink)
    dots = upper.scatter(xs, ys, c=percent, s=70, linewidths=0.6, edgecolors=theme.ink, **options)
    for axes in (upper, lower):
        bar = figure.colorbar(dots, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label("accuracy, %", color=theme.muted, fontsize=FONT_SIZE)
        bar.ax.tick_params(colors=theme.muted, labelsize=FONT_SIZE - 1, length=0)
        bar.outline.set_visible(False)
    return figure


def slices(
    points: Sequence[dict[str, Value]],
    accuracies: Sequence[float],
    axes_of_space: Sequence[Axis],
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the accuracy of every trial over each axis by itself.

    Args:
        points: Values of finished trials.
        accuracies: Their accuracies, as fractions.
        axes_of_space: What was varied.
        theme: Colours.
    """
    figure = new_figure(theme, width=WIDTH, height=2.3 * len(axes_of_space))
    panels = figure.subplots(len(axes_of_space), 1, squeeze=False)[:, 0]
    for panel, axis in zip(panels, axes_of_space, strict=True):
        style_axes(panel, theme, grid="y")
        xs = [position(point[axis.key], axis) for point in points]
        panel.scatter(xs, [100 * a for a in accuracies], s=16, color=theme.colours[0], linewidths=0)
        places, texts = ticks(axis)
        panel.set_xticks(places, texts)
        panel.set_xlim(-0.04, 1.04)
        panel.set_xlabel(axis.key)
        panel.set_ylabel("accuracy, %")
    return figure


def position(value: Value, axis: Axis) -> float:
    """Return where a value lies on its axis, from 0 to 1; choices are spaced evenly.

    Example:
        >>> round(position(1.0, Axis("c", low=0.1, high=10.0, is_log=True)), 3)
        0.5
    """
    if axis.choices is not None:
        return (axis.choices.index(value) + 0.5) / len(axis.choices)
    number = float(value)  # type: ignore[arg-type]
    if axis.is_log:
        return math.log(number / axis.low) / math.log(axis.high / axis.low)
    return (number - axis.low) / (axis.high - axis.low)


def ticks(axis: Axis) -> tuple[list[float], list[str]]:
    """Return positions and texts that label an axis."""
    values: Sequence[Value]
    if axis.choices is not None:
        values = axis.choices
    elif axis.is_log:
        exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        round_ones = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
        values = [value for value in round_ones if axis.low <= value <= axis.high]
    else:
        values = [axis.low + share * (axis.high - axis.low) for share in (0, 0.25, 0.5, 0.75, 1)]
    texts = [f"{v:g}" if isinstance(v, float) else text_of(v) for v in values]
    return [position(value, axis) for value in values], texts


def local_mean(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of the trials near every cell of the unit square.

    Args:
        x: ``(n,)`` positions in [0, 1].
        y: ``(n,)`` likewise.
        values: ``(n,)`` what is averaged.

    Returns:
        ``(cells, cells)``, rows along ``y``; NaN where less than half a trial's worth is near.
    """
    centres = (np.arange(CELLS) + 0.5) / CELLS
    distance = (centres[None, :, None] - x) ** 2 + (centres[:, None, None] - y) ** 2
    weights = np.exp(-distance / (2 * WINDOW**2))  # (rows, columns, trials)
    total = weights.sum(-1)
    mean = (weights * values).sum(-1) / np.maximum(total, np.finfo(np.float64).tiny)
    return np.where(total < FAINTEST, np.nan, mean)


def _label(axes: Axes, x_axis: Axis, y_axis: Axis) -> None:
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xticks(*ticks(x_axis))
    axes.set_yticks(*ticks(y_axis))
    axes.set_xlabel(x_axis.key)
    axes.set_ylabel(y_axis.key)
