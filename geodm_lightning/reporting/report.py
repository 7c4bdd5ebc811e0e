"""One page per run that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.files import write_text
from geodm_lightning.reporting.audit import audit_sections
from geodm_lightning.reporting.bars import accuracy_bars
from geodm_lightning.reporting.curvature import geometry_rows
from geodm_lightning.reporting.figures import geometry_curves, image_grid, loss_curves
from geodm_lightning.reporting.gallery import gallery
from geodm_lightning.reporting.ledger import HEADINGS as LEDGER_HEADINGS
from geodm_lightning.reporting.ledger import MEMORY_HEADINGS, build_ledger
from geodm_lightning.reporting.notes import share
from geodm_lightning.reporting.page import (
    Markup,
    element,
    fold,
    page,
    section,
    table,
    themed_figure,
)
from geodm_lightning.reporting.score import score_sections
from geodm_lightning.reporting.tables import build_table, percent
from geodm_lightning.reporting.theme import DARK, LIGHT, Theme, save_png, to_svg
from geodm_lightning.reporting.tracking import Curve, Metrics


class StageCost(NamedTuple):
    """What one stage of one method took.

    Attributes:
        stage: Such as ``"distil GeoDM"``.
        seconds: Wall-clock time.
        steps: Iterations or optimiser steps, None where it has none.
        peak_memory: Most bytes in use, None where it was not measured.
    """

    stage: str
    seconds: float
    steps: int | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class Report:
    """All that a run's page shows; a part that is empty is left out of the page.

    Attributes:
        title: Name of the run.
        class_names: Names of the classes, in label order.
        results: Accuracies, in the order of the table.
        sets: Sets to look at, by label; the first is the run's own.
        metrics: What was logged, by stage, series and key.
        costs: Cost of each stage.
        configuration: The resolved configuration, as text.
        environment: Versions, device, revision; plain values.
    """

    title: str
    class_names: tuple[str, ...] = ()
    results: Sequence[EvaluationResult] = ()
    sets: Mapping[str, DistilledSet] | None = None
    metrics: Metrics | None = None
    costs: Sequence[StageCost] = ()
    configuration: str = ""
    environment: Mapping[str, Any] | None = None


def write_report(path: Path, report: Report) -> Path:
    """Write a run's page to ``path``, whole or not at all, with what lies beside it.

    Raises:
        InputError: If the results cannot stand in one table, or the file cannot be written.
    """
    parts = (
        _header(report),
        *_accuracy_sections(report.results),
        *score_sections(path.parent),
        *gallery(report.sets or {}, report.class_names),
        *audit_sections(path.parent),
        *_curve_sections(report.metrics or {}),
        *_cost_sections(report.costs),
        *_ledger_sections(report.results),
        *_geometry_sections(report.results),
        *_background_sections(report),
    )
    return write_text(path, page(report.title, *parts))


def write_figures(folder: Path, report: Report) -> list[Path]:
    """Write the figures of a run as PNG files and return their paths."""
    figures: dict[str, Figure] = {}
    if report.results:
        figures["accuracy"] = accuracy_bars(report.results)
    for label, distilled in (report.sets or {}).items():
        figures[f"images_{label}"] = image_grid(
            distilled.images, distilled.labels, report.class_names
        )
    for series, curves in (report.metrics or {}).get("distill", {}).items():
        for kind, draw, chosen in _drawings(curves):
            figures[f"{kind}_{series}"] = draw(chosen, theme=LIGHT)
    return [save_png(figure, folder / f"{_slug(name)}.png") for name, figure in figures.items()]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def _header(report: Report) -> Markup:
    parts = [element("h1", report.title)]
    if report.results:
        first = report.results[0]
        sizes = sorted({r.ipc for r in report.results if r.ipc is not None})
        per_class = " and ".join(map(str, sizes))
        lead = f"{first.dataset}, {per_class} images per class" if sizes else first.dataset
        parts.append(element("p", lead, class_="lead"))
        tiles = [
            element(
                "li", element("b", f"{percent(r.mean, r.std)} %"), element("span", r.full_label)
            )
            for r in report.results
        ]
        parts.append(element("ul", *tiles, class_="tiles"))
    return element("header", *parts)


def _accuracy_sections(results: Sequence[EvaluationResult]) -> list[Markup]:
    if not results:
        return []
    built = build_table(results)
    notes = element("ul", *(element("li", note) for note in built.notes), class_="note")
    bars = _themed(
        lambda theme: accuracy_bars(results, theme=theme),
        alt="Accuracies with their standard deviation and every student",
    )
    students = table(
        ("Student", "Accuracy, %", "Training set, %", "Test loss", "Steps", "Seconds"),
        (
            (
                f"{result.full_label}, seed {s.seed}, {s.index + 1}",
                percent(s.accuracy),
                percent(s.train_accuracy),
                f"{s.loss:.3f}",
                str(s.num_steps),
                f"{s.seconds:.1f}",
            )
            for result in results
            for s in result.students
        ),
    )
    return [
        section("Accuracy", table(built.headings, built.rows), bars, notes),
        section("Students", fold("Every student", students)),
    ]


def _themed(draw: Callable[[Theme], Figure], *, alt: str) -> Markup:
    return themed_figure(to_svg(draw(LIGHT)), to_svg(draw(DARK)), alt=alt)


def _drawings(
    curves: Mapping[str, Curve],
) -> list[tuple[str, Callable[..., Figure], dict[str, Curve]]]:
    """Return kind, drawing function and curves of each figure that these curves allow."""
    prefix = "distill/loss"
    losses = {
        key.removeprefix(prefix).strip("/") or "total": curve
        for key, curve in curves.items()
        if key == prefix or key.startswith(f"{prefix}/")
    }
    geometry = {key: c for key, c in curves.items() if "curvature/" in key or "weight/" in key}
    drawings: list[tuple[str, Callable[..., Figure], dict[str, Curve]]] = []
    if losses:
        drawings.append(("loss", loss_curves, losses))
    if len(geometry) > 1:
        drawings.append(("geometry", geometry_curves, geometry))
    return drawings


def _curve_sections(metrics: Metrics) -> list[Markup]:
    titles = {"loss": "Loss", "geometry": "Curvature and geometry weights"}
    sections: dict[str, list[Markup]] = {kind: [] for kind in titles}
    for series, curves in metrics.get("distill", {}).items():
        for kind, draw, chosen in _drawings(curves):
            figure = _themed(
                lambda theme, draw=draw, chosen=chosen: draw(chosen, theme=theme),  # type: ignore[misc]
                alt=f"{titles[kind]} of {series} over the iterations",
            )
            sections[kind] += [element("h3", series), figure]
    return [section(titles[kind], *parts) for kind, parts in sections.items() if parts]


def _cost_sections(costs: Sequence[StageCost]) -> list[Markup]:
    if not costs:
        return []
    headings = ("Stage", "Seconds", "Steps", "ms per step", "Peak memory, MiB")
    return [section("Cost", table(headings, map(_cost_row, costs)))]


def _ledger_sections(results: Sequence[EvaluationResult]) -> list[Markup]:
    ledger = build_ledger(results)
    if ledger is None:
        return []
    parts = [table(LEDGER_HEADINGS, ledger.rows)]
    if ledger.memory:
        parts += [element("h3", "Peak memory, MiB"), table(MEMORY_HEADINGS, ledger.memory)]
    notes = element("ul", *(element("li", note) for note in ledger.notes), class_="note")
    return [section("Cost by component", *parts, notes)]


def _geometry_sections(results: Sequence[EvaluationResult]) -> list[Markup]:
    headings, rows = geometry_rows(results)
    return [section("Geometry at the end", table(headings, rows))] if rows else []


def _cost_row(cost: StageCost) -> tuple[str, ...]:
    per_step = f"{1000 * cost.seconds / cost.steps:.1f}" if cost.steps else "–"
    memory = "–" if cost.peak_memory is None else f"{cost.peak_memory / 2**20:.0f}"
    steps = "–" if cost.steps is None else str(cost.steps)
    return cost.stage, f"{cost.seconds:.1f}", steps, per_step, memory


def _background_sections(report: Report) -> Iterable[Markup]:
    if report.results:
        protocol = report.results[0].protocol
        rows = [(key, str(value)) for key, value in protocol.to_dict().items()]
        rows += [("share of the published epochs", share(protocol.fraction))]
        rows += [("digest", protocol.digest())]
        yield section("Protocol", element("div", table(("Field", "Value"), rows), class_="facts"))
    if report.environment:
        facts = [(str(key), str(value)) for key, value in report.environment.items()]
        content = element("div", table(("Field", "Value"), facts), class_="facts")
        yield section("Provenance", content)
    if report.configuration:
        yield section("Configuration", fold("config.yaml", element("pre", report.configuration)))
