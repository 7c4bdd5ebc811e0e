"""Colours and figure surfaces; two themes, legible to readers with any colour vision."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geodm_lightning.files import write_atomically

FONT_SIZE = 9.0  # points
DPI = 200


class Theme(NamedTuple):
    """Colours of a page and of the figures on it.

    Attributes:
        background: Behind everything.
        ink: Text and marks.
        muted: Secondary text.
        grid: Rules and grid lines.
        colours: Series, in order; after Okabe and Ito, told apart under every colour vision.
    """

    background: str
    ink: str
    muted: str
    grid: str
    colours: tuple[str, ...]


LIGHT = Theme(
    background="#ffffff",
    ink="#1b1f24",
    muted="#5c6570",
    grid="#e3e6ea",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"),
)
DARK = Theme(
    background="#15181d",
    ink="#e8eaed",
    muted="#a3abb5",
    grid="#2e343c",
    colours=("#56b4e9", "#f0813a", "#2cc295", "#e39ac2", "#f0c04a", "#8a9df0", "#a8a8a8"),
)


def new_figure(theme: Theme, *, width: float, height: float) -> Figure:
    """Return an empty figure in inches that belongs to no global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.set_facecolor(theme.background)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, theme: Theme, *, grid: str) -> None:
    """Give axes the colours of a theme, open at the top and right.

    Args:
        axes: The axes.
        theme: The theme.
        grid: Axis that carries grid lines, ``"x"`` or ``"y"``.
    """
    axes.set_facecolor(theme.background)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="x" if grid == "x" else "y", color=theme.grid, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelsize=FONT_SIZE - 1, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(theme.muted)
        axis.label.set_fontsize(FONT_SIZE)


def add_legend(axes: Axes, theme: Theme, *, columns: int) -> None:
    """Put a frameless legend above axes."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=FONT_SIZE - 0.5,
        labelcolor=theme.ink,
        handlelength=1.2,
        columnspacing=1.4,
        borderaxespad=0.2,
    )


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG bytes that are the same for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "geodm_lightning", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure to ``path``, whole or not at all."""
    content = to_png(figure)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))
