"""Distilled images and curves to figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from geodm_lightning.reporting.theme import (
    FONT_SIZE,
    LIGHT,
    Theme,
    add_legend,
    new_figure,
    style_axes,
)
from geodm_lightning.reporting.tracking import Curve
from geodm_lightning.types import InputError

WIDTH = 5.2  # inches; a phone shows 9 pt text at about 9 px
FACTOR_COLOURS = {"euclidean": 0, "hyperbolic": 1, "spherical": 2}
GAP = 0.1  # of an image's side, between the images of a grid


def image_grid(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    max_classes: int = 20,
    max_per_class: int = 10,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw images by class, one row per class.

    Args:
        images: ``(N, ch, h, w)`` with 1 or 3 channels, in unit range or of 8 bits; values outside
            are clamped.
        labels: ``(N,)`` class indices.
        class_names: Name of every class, in label order.
        max_classes: Rows at most.
        max_per_class: Images per row at most.
        theme: Colours.

    Returns:
        The figure; a line above it tells what the limits left out.

    Raises:
        InputError: If the images have neither 1 nor 3 channels or there are none.
    """
    if len(images) == 0 or images.shape[1] not in (1, 3):
        raise InputError(f"cannot draw images of shape {tuple(images.shape)}; need 1 or 3 channels")
    classes = labels.unique().tolist()
    shown = classes[:max_classes]
    rows = [images[labels == label][:max_per_class] for label in shown]
    canvas = _tile(rows, background=theme.background)
    label_width = 1.1  # inches
    scale = min((WIDTH - label_width) / canvas.shape[1], 0.46 * len(rows) / canvas.shape[0])
    height = canvas.shape[0] * scale + 0.32
    figure = new_figure(theme, width=WIDTH, height=height)
    figure.set_layout_engine("none")
    left, top = label_width / WIDTH, 0.28 / height
    box = (left, 0.02 / height, canvas.shape[1] * scale / WIDTH, canvas.shape[0] * scale / height)
    axes = figure.add_axes(box)
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    pitch = canvas.shape[0] / len(rows)
    for row, label in enumerate(shown):
        middle = (row + 0.5) * pitch
        name = shorten(class_names[label], 16)
        axes.text(
            -0.015 * canvas.shape[1],
            middle,
            name,
            ha="right",
            va="center",
            color=theme.ink,
            fontsize=FONT_SIZE,
        )
    per_class = max(int((labels == label).sum()) for label in classes)
    note = (
        f"{len(shown)} of {len(classes)} classes, "
        f"{min(per_class, max_per_class)} of {per_class} images per class"
    )
    figure.text(left, 1 - top / 2, note, color=theme.muted, fontsize=FONT_SIZE - 1, va="center")
    return figure


def _tile(rows: Sequence[Tensor], *, background: str) -> NDArray[np.float32]:
    """Return one ``(H, W, 3)`` picture of rows of ``(n, ch, h, w)`` images, gaps between."""
    height, width = rows[0].shape[2:]
    # A small image is repeated pixel by pixel so that the gap can be a share of its side.
    repeat = max(1, 64 // height)
    gap = max(1, round(GAP * height * repeat))
    cell_height, cell_width = height * repeat + gap, width * repeat + gap
    columns = max(len(row) for row in rows)
    colour = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    canvas = np.empty((len(rows) * cell_height, columns * cell_width, 3), dtype=np.float32)
    canvas[:] = colour
    for i, row in enumerate(rows):
        pixels = row.detach().cpu().float() / (1 if row.is_floating_point() else 255)
        pixels = pixels.clamp(0, 1).expand(-1, 3, -1, -1)
        pixels = pixels.repeat_interleave(repeat, dim=2).repeat_interleave(repeat, dim=3)
        for j, image in enumerate(pixels):
            y, x = i * cell_height, j * cell_width
            canvas[y : y + height * repeat, x : x + width * repeat] = image.permute(1, 2, 0).numpy()
    return canvas


def shorten(text: str, length: int) -> str:
    """Return at most ``length`` characters of a text, an ellipsis for what is cut."""
    return text if len(text) <= length else text[: length - 1] + "…"


def loss_curves(curves: Mapping[str, Curve], *, theme: Theme = LIGHT) -> Figure:
    """Draw loss terms over the iterations: faint as logged, bold as a running mean.

    Args:
        curves: Terms by name.
        theme: Colours.

    Returns:
        The figure, with a logarithmic axis where all values are positive.

    Raises:
        InputError: If there is no curve.
    """
    if not curves:
        raise InputError("no loss was logged; nothing to draw")
    figure = new_figure(theme, width=WIDTH, height=2.9)
    axes = figure.add_subplot()
    style_axes(axes, theme, grid="y")
    for i, (name, curve) in enumerate(curves.items()):
        colour = theme.colours[i % len(theme.colours)]
        values = np.asarray(curve.values)
        axes.plot(curve.steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(curve.steps, _running_mean(values), color=colour, linewidth=1.8, label=name)
    finite = [v for curve in curves.values() for v in curve.values if math.isfinite(v)]
    if finite and min(finite) > 0:
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    _label_iterations(axes)
    add_legend(axes, theme, columns=min(4, len(curves)))
    return figure


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a centred window of a twentieth of the curve, shorter at the ends."""
    half = len(values) // 40
    return np.array(
        [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))],
        dtype=np.float64,
    )


def geometry_curves(curves: Mapping[str, Curve], *, theme: Theme = LIGHT) -> Figure:
    """Draw curvatures and geometry weights over the iterations, in two panels.

    Args:
        curves: Curves with ``curvature/FACTOR`` or ``weight/FACTOR`` in their names, as
            ``ProductManifold.state`` gives them; others are left out.
        theme: Colours.

    Raises:
        InputError: If there is neither a curvature nor a weight.
    """
    panels = {
        "curvature": _of_factor(curves, "curvature/"),
        "geometry weight": _of_factor(curves, "weight/"),
    }
    if not any(panels.values()):
        raise InputError("neither curvature/… nor weight/… was logged; nothing to draw")
    figure = new_figure(theme, width=WIDTH, height=4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, (title, factors) in zip((upper, lower), panels.items(), strict=True):
        style_axes(axes, theme, grid="y")
        for factor, curve in factors.items():
            colour = theme.colours[FACTOR_COLOURS.get(factor, len(theme.colours) - 1)]
            axes.plot(curve.steps, curve.values, color=colour, linewidth=1.8, label=factor)
        axes.set_ylabel(title)
    upper.axhline(0.0, color=theme.muted, linewidth=0.8, linestyle=(0, (4, 3)))
    lower.set_ylim(bottom=0.0)
    _label_iterations(lower)
    add_legend(lower if panels["geometry weight"] else upper, theme, columns=3)
    return figure


def _of_factor(curves: Mapping[str, Curve], kind: str) -> dict[str, Curve]:
    return {key.split(kind, 1)[1]: curve for key, curve in curves.items() if kind in key}


def _label_iterations(axes: Axes) -> None:
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.margins(x=0.01)
