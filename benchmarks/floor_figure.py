"""Draw what ``benchmarks/floor.py`` has measured: one panel for each kind of work.

    python benchmarks/floor_figure.py benchmarks/results/floor_cpu.json

writes the figure beside the file, as ``.png``. A bar is as long as the time over the floor, which
is the line at 1, and divided as the components share the time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INCH = 0.24  # height of a bar
FRAME = 1.2  # height of what is around the bars of a panel, in inches
COLOURS = {"rest": "0.75"}  # others in the order of the panel


def label(row: dict[str, Any]) -> str:
    """Return what a bar is of."""
    ipcs = ", ".join(map(str, row["ipcs"]))
    told = [", ".join(row["shapes"]), f"IPC {ipcs}", row["variant"], row["precision"]]
    return " · ".join(part for part in told if part and part != "float32")


def draw(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw the bars of one kind of work."""
    names = [name for name in rows[0]["parts"] if name != "rest"]
    colours = {name: f"C{index}" for index, name in enumerate(names)} | COLOURS
    places = range(len(rows), 0, -1)
    starts = [0.0] * len(rows)
    for name in [*names, "rest"]:
        lengths = [row["parts"][name]["seconds"] / row["floor seconds"] for row in rows]
        axes.barh(places, lengths, left=starts, color=colours[name], label=name, height=0.8)
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    for place, row, end in zip(places, rows, starts, strict=True):
        axes.annotate(
            f"{row['time / floor']:.2f}",
            (end, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.tick_params(labelsize=7)
    axes.set_yticks(places, [label(row) for row in rows], fontsize=7)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.set_xlim(0, 1.12 * max(*starts, 1.0))
    axes.set_xlabel("time / floor")
    axes.set_title(rows[0]["kernel"], fontsize=10, loc="left", pad=18)
    axes.legend(
        fontsize=7,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(names) + 1,
        frameon=False,
        columnspacing=1,
        handlelength=1,
    )


def columns(panels: list[list[dict[str, Any]]]) -> list[list[list[dict[str, Any]]]]:
    """Divide panels into two columns, the first of which has the longest alone."""
    longest = max(panels, key=len)
    others = [panel for panel in panels if panel is not longest]
    return [[longest], others] if others else [[longest]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    content = json.loads(results.read_text(encoding="utf-8"))
    kernels = dict.fromkeys(row["kernel"] for row in content["rows"])
    panels = [[row for row in content["rows"] if row["kernel"] == kernel] for kernel in kernels]
    placed = columns(panels)
    heights = [[FRAME + INCH * len(panel) for panel in column] for column in placed]
    figure = Figure(figsize=(6.5 * len(placed), max(map(sum, heights))), layout="constrained")
    sides = figure.subfigures(1, len(placed), squeeze=False)[0]
    for side, column, own in zip(sides, placed, heights, strict=True):
        axes = side.subplots(len(column), 1, squeeze=False, height_ratios=own)[:, 0]
        for panel, place in zip(column, axes, strict=True):
            draw(place, panel)
    machine, where = content["machine"], content["provenance"]
    rates = ", ".join(f"{k} {v / 1e9:.4g} GFLOP/s" for k, v in machine["products"].items())
    figure.suptitle(
        f"{where['device']}, threads {where['threads']}: {rates}, "
        f"copies {machine['memory'] / 1e9:.3g} GB/s ({machine['cache'] / 1e9:.3g} in cache)",
        fontsize=9,
    )
    figure.savefig(results.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
