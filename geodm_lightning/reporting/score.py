"""Robust scores for a page, with the cells they are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geodm_lightning.reporting.audit import notes, read_json
from geodm_lightning.reporting.page import Markup, fold, section, table
from geodm_lightning.reporting.tables import percent

HEADINGS = ("Set", "Label-robust, %", "95 % interval", "Augmentation-robust, %", "95 % interval")
CELL_HEADINGS = ("Images", "Learned from", "Augmentation", "Rate", "Held out, %", "Test, %")
IMAGES = {"set": "the set", "random": "random real images", "whole": "all real images"}


def score_sections(folder: Path) -> list[Markup]:
    """Return the section of a run's page that its robust scores fill; none without scores.

    Args:
        folder: Folder of one seed of a run.

    Raises:
        InputError: If the file of the scores is damaged.
    """
    found = read_json(folder / "scores.json", to_make="score")
    if found is None or not found["rows"]:
        return []
    rows = [
        (
            row["label"],
            *_score_cells(row["label_robust"]),
            *_score_cells(row["augmentation_robust"]),
        )
        for row in found["rows"]
    ]
    cells = [fold(f"Cells of {row['label']}", _cells(row)) for row in found["rows"]]
    return [section("Robust scores", table(HEADINGS, rows), notes(*_notes(found)), *cells)]


def diverged(cell: Mapping[str, Any]) -> list[str]:
    """Return the rates at which students of a cell diverged, as texts."""
    return [rate for rate, accuracy in cell["chosen_on"].items() if accuracy is None]


def _score_cells(score: Mapping[str, Any]) -> tuple[str, str]:
    if score["low"] is None:
        return percent(score["value"]), "–"
    return percent(score["value"]), f"{percent(score['low'])} to {percent(score['high'])}"


def _cells(row: Mapping[str, Any]) -> Markup:
    rows = []
    for cell in row["cells"]:
        images, supervision, augmentation = _parts(cell)
        accuracies = cell["accuracies"]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        rate = f"{cell['rate']:g}"
        rows.append(
            (
                images,
                supervision,
                augmentation,
                rate,
                percent(cell["chosen_on"][rate]),
                percent(statistics.mean(accuracies), spread),
            )
        )
    return table(CELL_HEADINGS, rows)


def _parts(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return images, supervision and augmentation of a cell for readers."""
    images, supervision, augmentation = cell["name"].split("/")
    return IMAGES[images], supervision, "protocol's" if augmentation == "augmented" else "none"


def _told(cell: Mapping[str, Any]) -> str:
    images, supervision, augmentation = _parts(cell)
    return f"{images} with {supervision} labels and {augmentation} augmentation"


def _notes(found: Mapping[str, Any]) -> list[str]:
    options, protocol = found["options"], found["protocol"]
    weight, gamma = options["weight"], options["augmentation_weight"]
    rates = ", ".join(f"{rate:g}" for rate in options["rates"])
    texts = [
        f"Label-robust (DD-Ranking's LRS): {weight:g} of the gain over as many random real images, "
        f"less {1 - weight:g} of what plain classes lack against all real images. "
        f"Augmentation-robust (ARS): {gamma:g} of that gain with augmentation and "
        f"{1 - gamma:g} without. Each is mapped to 0 to 100 %; no gain and no gap is 26.9 %.",
        f"Protocol {protocol['name']}, last epoch, the rate of every cell chosen among {rates} "
        f"times the protocol's on {found['held_out']:,} training images held out, never on test "
        "images. DD-Ranking chooses rate and epoch on test images: do not mix scores.",
        "Random images are one draw, free of those held out; a distilled set may have seen them. "
        "Intervals (Welch) are over students and do not hold that draw or the choice of the rate.",
    ]
    if any(row["supervision"] != row["random_supervision"] for row in found["rows"]):
        texts.append("Random images cannot have labels that came with a set; theirs are classes.")
    texts += [
        f"{row['label']}, {_told(cell)}: diverged at rate {', '.join(diverged(cell))}, "
        "which was not chosen."
        for row in found["rows"]
        for cell in row["cells"]
        if diverged(cell)
    ]
    return texts
