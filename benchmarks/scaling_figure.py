"""Draw what ``benchmarks/scaling.py`` has measured.

    python benchmarks/scaling_figure.py benchmarks/results/scaling_cpu.json

writes the figure beside the file, as ``.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

SECONDS, OWNED = "processor seconds", "bytes of owned images, gradients and moments"
MADE = "most bytes of tensors made in an iteration"
SENT = "bytes summed over processes"
PANELS = (
    ("by classes", "classes", SECONDS, "processor seconds of a process", 1.0),
    ("by images per class", "ipc", SECONDS, "processor seconds of a process", 1.0),
    ("by processes", "processes", SECONDS, "processor seconds of a process", 1.0),
    ("by processes", "processes", OWNED, "MB owned by a process", 1e-6),
    ("by processes", "processes", MADE, "MB made in an iteration", 1e-6),
    ("by classes", "classes", SENT, "bytes summed in an iteration", 1.0),
)
TITLES = {"classes": "classes", "ipc": "images per class", "processes": "processes"}


def draw(axes: Axes, cases: list[dict[str, Any]], key: str, value: str, unit: float) -> None:
    """Draw one quantity over one size; over classes both on logarithmic scales."""
    sizes = [case[key] for case in cases]
    axes.plot(sizes, [case[value] * unit for case in cases], marker="o")
    axes.set_xlabel(TITLES[key])
    if key == "classes":
        axes.set_xscale("log")
    if key == "classes" and value == SECONDS:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    content = json.loads(results.read_text(encoding="utf-8"))
    figure = Figure(figsize=(18, 3.2), layout="constrained")
    for axes, (part, key, value, title, unit) in zip(
        figure.subplots(1, len(PANELS)), PANELS, strict=True
    ):
        draw(axes, content[part], key, value, unit)
        axes.set_title(title, fontsize=10)
    figure.savefig(results.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
