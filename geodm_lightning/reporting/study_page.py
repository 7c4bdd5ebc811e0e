"""Tables of many runs as one page: table, figure, every cell, images, cost, configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.files import write_text
from geodm_lightning.reporting.gallery import strip_png
from geodm_lightning.reporting.page import (
    Markup,
    data_uri,
    element,
    fold,
    page,
    section,
    table,
    themed_figure,
    void_element,
)
from geodm_lightning.reporting.study import Study
from geodm_lightning.reporting.study_figure import study_figure
from geodm_lightning.reporting.study_lines import (
    COST_HEADINGS,
    DETAIL_HEADINGS,
    GridLine,
    cost_rows,
    detail_rows,
    grid,
    study_notes,
)
from geodm_lightning.reporting.theme import DARK, LIGHT, to_svg

MAX_CLASSES = 10


def write_study(
    path: Path,
    study: Study,
    *,
    sets: Mapping[str, Mapping[str, DistilledSet]],
    configurations: Mapping[str, str],
) -> Path:
    """Write the page of a table to ``path``, whole or not at all.

    Args:
        path: The page.
        study: The table.
        sets: Sets to look at: by title of a column, then by label of a row.
        configurations: Resolved configuration of every run, as text.
    """
    parts = (
        _header(study),
        _grid_section(study),
        *_figure_sections(study),
        *_cells_sections(study),
        *_image_sections(sets),
        *_configuration_sections(configurations),
    )
    return write_text(path, page(study.title, *parts))


def _header(study: Study) -> Markup:
    measured = sum(cell.ours is not None for _, _, _, cell in study.cells())
    count = sum(1 for _ in study.cells())
    lead = f"{measured} of {count} cells measured; published values below ours."
    return element("header", element("h1", study.title), element("p", lead, class_="lead"))


def _grid_section(study: Study) -> Markup:
    headings = ["Method", *(f"{column.dataset} {column.label}" for column in study.columns)]
    rows = [_grid_row(line, len(study.columns)) for line in grid(study)]
    notes = element("ul", *(element("li", note) for note in study_notes(study)), class_="note")
    return section("Table", table(headings, rows), notes)


def _grid_row(line: GridLine, width: int) -> list[str]:
    if line.kind == "group":
        return [element("strong", line.label), *("" for _ in range(width))]
    if line.kind == "published":
        return [element("small", cell) for cell in (line.label, *line.cells)]
    marked = [
        element("strong", cell) if best else cell
        for cell, best in zip(line.cells, line.best, strict=True)
    ]
    return [line.label, *marked]


def _figure_sections(study: Study) -> list[Markup]:
    light, dark = (study_figure(study, theme=theme) for theme in (LIGHT, DARK))
    if light is None or dark is None:
        return []
    alt = "A panel for every column: ours with its interval, and the published values"
    return [section("Figure", themed_figure(to_svg(light), to_svg(dark), alt=alt))]


def _cells_sections(study: Study) -> list[Markup]:
    details = detail_rows(study)
    if not details:
        return []
    return [
        section("Every cell", fold("Intervals, differences and shares of the full schedule",
                                   table(DETAIL_HEADINGS, details))),
        section("Cost", fold("Time and memory of every cell",
                             table(COST_HEADINGS, cost_rows(study)))),
    ]  # fmt: skip


def _image_sections(sets: Mapping[str, Mapping[str, DistilledSet]]) -> list[Markup]:
    """Show the first stored image of every class, a strip for every row."""
    parts = []
    for title, by_label in sets.items():
        cells: list[Markup] = []
        for label, distilled in by_label.items():
            classes = distilled.labels.unique().tolist()[:MAX_CLASSES]
            first = [int((distilled.labels == c).nonzero()[0]) for c in classes]
            images = distilled.unit_images(distilled.labels.new_tensor(first))
            uri = data_uri(strip_png(images), "image/png")
            alt = f"{label}: the first image of {len(first)} classes"
            cells += [element("span", label), void_element("img", src=uri, alt=alt)]
        parts.append(fold(title, element("div", *cells, class_="strips")))
    if not parts:
        return []
    note = "The first stored image of each class, at most ten classes, of the first seed."
    return [section("Images", *parts, element("p", note, class_="lead"))]


def _configuration_sections(configurations: Mapping[str, str]) -> list[Markup]:
    if not configurations:
        return []
    folds = [fold(name, element("pre", text)) for name, text in configurations.items()]
    return [section("Configurations", *folds)]
