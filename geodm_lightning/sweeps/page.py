"""The summary of a sweep for readers: Markdown, one HTML page, pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geodm_lightning.files import write_text
from geodm_lightning.reporting.page import element, fold, page, section, table, themed_figure
from geodm_lightning.reporting.theme import DARK, LIGHT, Theme, save_png, to_svg
from geodm_lightning.sweeps.heatmap import Place, heat_map, slices
from geodm_lightning.sweeps.importance import importance_bars, importances
from geodm_lightning.sweeps.space import overrides_of, text_of
from geodm_lightning.sweeps.summary import Summary, Tried, summarised

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study

SHOWN = 10  # trials of the list of the best
CLEAR = 2 * math.sqrt(2)  # standard deviations of a run by which two runs differ clearly
Draw = Callable[[Theme], "Figure"]


def figures_of(summary: Summary) -> dict[str, Draw]:
    """Return what draws each figure, by the name of its file."""
    done = summary.complete
    drawn: dict[str, Draw] = {}
    if len(summary.axes) > 1:
        x_axis, y_axis = summary.axes[:2]
        places = [Place(t.point[x_axis.key], t.point[y_axis.key], t.accuracy or 0.0) for t in done]
        drawn["heatmap"] = lambda theme: heat_map(places, x_axis, y_axis, theme=theme)
    points, accuracies = [t.point for t in done], [t.accuracy or 0.0 for t in done]
    drawn["slices"] = lambda theme: slices(points, accuracies, summary.axes, theme=theme)
    if summary.importances:
        drawn["importance"] = lambda theme: importance_bars(summary.importances, theme=theme)
    return drawn


def write_page(study: Study, folder: Path) -> None:
    """Write ``summary.md``, ``summary.html`` and the figures, once a trial has finished.

    Args:
        study: The sweep.
        folder: Where they are written.
    """
    summary = summarised(study)
    if not summary.complete:
        return
    summary = summary._replace(importances=importances(study))
    for name, draw in figures_of(summary).items():
        save_png(draw(LIGHT), folder / f"{name}.png")
    write_text(folder / "summary.md", to_markdown(summary))
    write_text(folder / "summary.html", to_html(summary))


def findings(summary: Summary) -> Iterator[str]:
    """Yield what there is to say in sentences."""
    done, failed = summary.complete, [t for t in summary.trials if t.state == "fail"]
    yield (
        f"{len(done)} of {len(summary.trials)} trials finished, {len(failed)} failed; points were "
        f"chosen by {summary.method}. Accuracies are those on {summary.tested_on}."
    )
    if not summary.settings["data"].get("validation"):
        yield (
            "Settings were compared on the test images, so the best accuracy is no estimate of "
            "anything: set data.validation=0.2 before choosing by it."
        )
    best = summary.best
    yield (
        f"Best: {percent(best)} % with {', '.join(overrides_of(best.point))} (trial "
        f"{best.number}). Mean of all trials {_mean(summary):.2f} %."
    )
    if summary.noise is not None:
        values = list(summary.repeats.values())
        spread = statistics.stdev(t.accuracy or 0.0 for t in done) if len(done) > 1 else 0.0
        yield (
            f"Noise: the experiment as it stands reaches {100 * statistics.fmean(values):.2f} ± "
            f"{100 * summary.noise:.2f} % over {len(values)} seeds (mean and standard deviation); "
            f"the trials, all of one seed, spread by {100 * spread:.2f} points. Two single runs "
            f"that differ by less than {100 * CLEAR * summary.noise:.1f} points, twice the "
            "standard deviation of a difference, are not told apart."
        )
    if summary.importances:
        yield (
            "Importance: fANOVA divides the variance over the whole space; PED-ANOVA asks what "
            "sets the better half apart. Both sum to 100 % also where all of it is noise."
        )


def percent(trial: Tried) -> str:
    """Return the accuracy of a finished trial in percent."""
    return f"{100 * (trial.accuracy or 0.0):.2f}"


def commands(summary: Summary) -> list[tuple[str, str]]:
    """Return the commands that go on from the best trial, each with what it does."""
    best, name = summary.best, summary.name
    return [
        ("the best trial again", summary.command(best, run_dir="runs", name=f"{name}_best")),
        (
            "its settings, trained on all training images and judged on the test images",
            summary.command(best, run_dir="runs", name=f"{name}_final", final=True),
        ),
    ]


def rows_of(summary: Summary, trials: list[Tried]) -> list[list[str]]:
    """Return trials as cells of a table."""
    keys = [axis.key for axis in summary.axes]
    return [[str(t.number), percent(t), *(text_of(t.point[key]) for key in keys)] for t in trials]


def to_markdown(summary: Summary) -> str:
    """Return the summary as GitHub markdown, beside its figures."""
    keys = [axis.key for axis in summary.axes]
    lines = [f"# {summary.name}", "", *findings(summary), ""]
    lines = [line if not line or line.startswith("#") else f"{line}\n" for line in lines]
    lines += _markdown_table(
        ["trial", "accuracy, %", *keys], rows_of(summary, summary.ranked[:SHOWN])
    )
    if summary.importances:
        rows = [
            [key, *(f"{100 * by_key[key]:.0f} %" for by_key in summary.importances.values())]
            for key in keys
        ]
        lines += ["", *_markdown_table(["importance", *summary.importances], rows)]
    for name in figures_of(summary):
        lines += ["", f"![{name}]({name}.png)"]
    lines += ["", "Every run has", "", "```bash", " ".join(summary.overrides), "```"]
    for what, command in commands(summary):
        lines += ["", f"To run {what}:", "", "```bash", command, "```"]
    failed = [trial for trial in summary.trials if trial.error]
    if failed:
        lines += [
            "",
            *_markdown_table(["failed", "why"], [[str(t.number), t.error] for t in failed]),
        ]
    return "\n".join(lines) + "\n"


def to_html(summary: Summary) -> str:
    """Return the summary as one page that needs nothing from elsewhere."""
    headings = ["trial", "accuracy, %", *(axis.key for axis in summary.axes)]
    ranked, failed = summary.ranked, [trial for trial in summary.trials if trial.error]
    parts = [element("h1", summary.name)]
    parts += [element("p", sentence) for sentence in findings(summary)]
    for name, draw in figures_of(summary).items():
        light, dark = to_svg(draw(LIGHT)), to_svg(draw(DARK))
        parts.append(section(TITLES[name], themed_figure(light, dark, alt=TITLES[name])))
    rest = rows_of(summary, ranked[SHOWN:])
    parts.append(
        section(
            "Trials",
            table(headings, rows_of(summary, ranked[:SHOWN])),
            *([fold("All others", table(headings, rest))] if rest else []),
        )
    )
    if failed:
        rows = [[str(trial.number), trial.error] for trial in failed]
        content = element("div", table(("Trial", "Why"), rows), class_="facts")
        parts.append(section("Failed trials", content))
    for what, command in commands(summary):
        parts.append(section(f"To run {what}", element("pre", command)))
    return page(f"{summary.name} · sweep", *parts)


TITLES = {
    "heatmap": "Accuracy over the first two parameters",
    "slices": "Accuracy over each parameter",
    "importance": "Importance",
}


def _mean(summary: Summary) -> float:
    return 100 * statistics.fmean(trial.accuracy or 0.0 for trial in summary.complete)


def _markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    rule = "|".join(["---"] + ["--:"] * (len(headings) - 1))
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(headings)} |", f"|{rule}|", *lines]
