"""Draw what ``benchmarks/scaling.py`` has measured, and write it down.

    python benchmarks/scaling_figure.py benchmarks/results/scaling_cpu.json --docs docs/scaling.md

writes the figure beside the file, as ``.png``, and prints its tables as Markdown; with ``--docs``
these take the place of what stands between their marks in a page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geodm_lightning.files import write_text
from geodm_lightning.types import InputError

SECONDS, OWNED = "processor seconds", "bytes of owned images, gradients and moments"
MADE = "most bytes of tensors made in an iteration"
HELD = "resident bytes added"
SENT = "bytes summed over processes"
PANELS = (
    ("by classes", "classes", SECONDS, "processor seconds of a process", 1.0),
    ("by images per class", "ipc", SECONDS, "processor seconds of a process", 1.0),
    ("by processes", "processes", SECONDS, "processor seconds of a process", 1.0),
    ("by processes", "processes", OWNED, "MB owned by a process", 1e-6),
    ("by processes", "processes", HELD, "MB resident, libraries aside", 1e-6),
    ("all", "images", SENT, "bytes summed in an iteration", 1.0),
)
TITLES = {
    "classes": "classes",
    "ipc": "images per class",
    "processes": "processes",
    "images": "learned images",
}
PARTS = ("by classes", "by images per class", "by processes")
COLUMNS = (
    ("classes", "classes", "{:d}", 1),
    ("images per class", "ipc", "{:d}", 1),
    ("processes", "processes", "{:d}", 1),
    ("processor seconds", SECONDS, "{:.2f}", 1),
    ("seconds", "seconds", "{:.2f}", 1),
    ("MB owned", OWNED, "{:.1f}", 1e-6),
    ("MB of tensors made", MADE, "{:.0f}", 1e-6),
    ("MB resident", HELD, "{:.0f}", 1e-6),
    ("bytes summed", SENT, "{:.0f}", 1),
)
PAPER = (
    ("learned images", "bytes of learned images, gradients and moments at 224 px"),
    ("pictures", "bytes of pictures at 224 px"),
    ("labels, fp16", "bytes of labels, fp16"),
    ("int8", "bytes of labels, int8"),
    ("top 10", "bytes of labels, top 10"),
)
ITERATION = "processor seconds of an iteration, IPC 1, shapes measured"
MARK = "<!-- {} of benchmarks/scaling_figure.py: {} -->"


def cases_of(content: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the cases of a part, or of all, with how many images they learn."""
    parts = PARTS if part == "all" else (part,)
    cases = [
        {**case, "images": case["classes"] * case["ipc"]} for p in parts for case in content[p]
    ]
    return sorted(cases, key=lambda case: case["images"]) if part == "all" else cases


def draw(axes: Any, cases: list[dict[str, Any]], key: str, value: str, unit: float) -> None:
    """Draw one quantity over one size; over classes both on logarithmic scales."""
    sizes = [case[key] for case in cases]
    axes.plot(sizes, [case[value] * unit for case in cases], marker="o")
    axes.set_xlabel(TITLES[key])
    if key in ("classes", "images"):
        axes.set_xscale("log")
    if key == "classes":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def draw_all(content: dict[str, Any], path: Path) -> None:
    """Draw every panel into one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 3.2), layout="constrained")
    for axes, (part, key, value, title, unit) in zip(
        figure.subplots(1, len(PANELS)), PANELS, strict=True
    ):
        draw(axes, cases_of(content, part), key, value, unit)
        axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], *, names: int) -> list[str]:
    """Return a table in Markdown whose first columns are names and whose others are numbers."""
    rule = [":---"] * names + ["---:"] * (len(headings) - names)
    return ["| " + " | ".join(row) + " |" for row in (headings, rule, *rows)]


def size(number: float) -> str:
    """Return bytes for readers.

    Example:
        >>> size(1_806_336_000), size(18_063_360_000), size(2.861e12)
        ('1.81 GB', '18 GB', '2.86 TB')
    """
    if number >= 1e12:
        return f"{number / 1e12:.2f} TB"
    return f"{number / 1e9:.0f} GB" if number >= 1e10 else f"{number / 1e9:.2f} GB"


def measured(content: dict[str, Any]) -> str:
    """Return machine and table of what was measured."""
    machine, note = content["provenance"], content["note"]
    torch = machine["libraries"]["torch"]
    head = (
        f"{machine['device']}, {machine['cores']} cores, torch {torch}, load before "
        f"{content['load before']:.1f}{f'; {note}' if note else ''}:"
    )
    cases = [case for part in PARTS for case in content[part]]
    rows = [
        [form.format(int(case[key]) if form == "{:d}" else case[key] * unit)
         for _, key, form, unit in COLUMNS]
        for case in cases
    ]  # fmt: skip
    return "\n".join([head, "", *markdown([c[0] for c in COLUMNS], rows, names=0)])


def on_paper(content: dict[str, Any]) -> str:
    """Return the line through the points, and the table of what is beyond."""
    found = content["extrapolated"]
    head = (
        f"Iterations: {1e3 * found['processor seconds per class']:.1f} ms per class and "
        f"{found['processor seconds at no class']:.2f} s beside, the line through the points above."
    )
    rows = []
    for name, row in found["rows"].items():
        iteration = f"{row[ITERATION]:.0f}" if name.endswith("IPC 1") else ""
        sizes = [size(row[key]) for _, key in PAPER]
        rows.append([name, iteration, *sizes, f"{row['steps of a student']:,}"])
    headings = ["", "seconds of an iteration", *(h for h, _ in PAPER), "steps of a student"]
    return "\n".join([head, "", *markdown(headings, rows, names=1)])


def filled(page: str, content: dict[str, Any]) -> str:
    """Return a page with the tables in their places.

    Raises:
        InputError: If a table has no place in it.
    """
    for name, text in (("measured", measured(content)), ("on paper", on_paper(content))):
        begin, end = MARK.format("begin", name), MARK.format("end", name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise InputError(f"the page has no lines {begin} and {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    content = json.loads(arguments.results.read_text(encoding="utf-8"))
    draw_all(content, arguments.results.with_suffix(".png"))
    print(f"{measured(content)}\n\n{on_paper(content)}")
    if arguments.docs is not None:
        page = arguments.docs.read_text(encoding="utf-8")
        write_text(arguments.docs, filled(page, content))


if __name__ == "__main__":
    main()
