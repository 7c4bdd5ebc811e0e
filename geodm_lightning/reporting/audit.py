"""What an audit found, for a page: among real images, nearest real images, calibration."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodm_lightning.evaluation.result import load_results
from geodm_lightning.reporting.gallery import strip_png
from geodm_lightning.reporting.page import (
    Markup,
    data_uri,
    element,
    fold,
    join,
    section,
    table,
    void_element,
)
from geodm_lightning.reporting.tables import percent
from geodm_lightning.types import InputError

COVERAGE = {
    "precision": "Precision, %",
    "recall": "Recall, %",
    "density": "Density",
    "coverage": "Coverage, %",
}
DIVERSITY = {"mean_distance": "Mean distance", "vendi": "Vendi score"}
NEAREST_HEADINGS = (
    "Set",
    "Looked at",
    "Copies",
    "Distance, pixels",
    "Closest, pixels",
    "To second, pixels",
    "Distance, features",
    "Same class, features, %",
)


def audit_sections(folder: Path) -> list[Markup]:
    """Return the sections of a run's page that its audit and its students' confidence fill.

    Args:
        folder: Folder of one seed of a run.

    Returns:
        Sections in order; none where there was no audit and no student told its calibration.

    Raises:
        InputError: If a file is damaged.
    """
    found = read_json(folder / "audit.json", to_make="audit")
    sections = [] if found is None else [_among(found), _nearest(found, folder)]
    return [*sections, *_calibration(folder / "results.json")]


def read_json(path: Path, *, to_make: str) -> Any:
    """Return what a stage wrote, None where it has not run.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"damaged {path}: {error}; delete it and run {to_make} again") from error


def notes(*texts: str) -> Markup:
    """Return the notes below a table."""
    return element("ul", *(element("li", text) for text in texts), class_="note")


def _among(found: Mapping[str, Any]) -> Markup:
    return section(
        "Among the real images",
        _cloud_table(found, COVERAGE),
        element("h3", "Diversity within a class"),
        _cloud_table(found, DIVERSITY),
        notes(*_cloud_notes(found)),
    )


def _cloud_table(found: Mapping[str, Any], measures: Mapping[str, str]) -> Markup:
    rows = [
        (row["label"], str(row["per_class"]), *_cloud_cells(row["clouds"], measures))
        for row in found["rows"]
    ]
    draws = found["options"]["references"]
    rows += [
        (f"Random real images, {draws} draws", size, *_spread_cells(spreads, measures))
        for size, spreads in found["references"].items()
    ]
    return table(("Set", "Per class", *measures.values()), rows)


def _cloud_notes(found: Mapping[str, Any]) -> list[str]:
    network, steps, k = found["network"]["name"], found["steps"], found["options"]["neighbours"]
    training = f"trained for {steps:,} steps on the real images" if steps else "fresh"
    return [
        f"Features of a {network}, {training}; means over the classes. A real image carries a "
        f"ball that reaches to the {k}-th nearest one of its class.",
        "Precision: images inside some ball. Density: balls an image lies in, over "
        f"{k}; 1 is to be expected of other real images. Coverage: balls with an image inside. "
        "Recall: real images inside such a ball of the set's own, which a handful of images makes "
        "very wide.",
        "Mean distance and Vendi score tell how different the images of a class are; the latter "
        "counts images that differ, from 1 to all.",
        "Read each number beside as many random real images. These are among the real ones, in "
        f"balls of their own: their precision is 100 %, their density about {1 + 1 / k:.2g}. ± is "
        "over draws.",
    ]


def _cloud_cells(found: Mapping[str, float | None], measures: Iterable[str]) -> list[str]:
    return ["–" if (value := found[key]) is None else _text(key, value) for key in measures]


def _spread_cells(
    spreads: Mapping[str, Mapping[str, float] | None], measures: Iterable[str]
) -> list[str]:
    cells = []
    for key in measures:
        spread = spreads[key]
        values = [] if spread is None else [spread["mean"], spread["std"]]
        cells.append(" ± ".join(_text(key, value) for value in values) or "–")
    return cells


def _text(key: str, value: float) -> str:
    return percent(value) if key in ("precision", "recall", "coverage") else f"{value:.2f}"


def _nearest(found: Mapping[str, Any], folder: Path) -> Markup:
    rows = []
    for row in found["rows"]:
        nearest, pixels = row["nearest"], row["nearest"]["pixels"]
        cells = (pixels["median_relative"], pixels["smallest_relative"], pixels["median_ratio"])
        features = nearest["features"]
        rows.append(
            (
                row["label"],
                str(nearest["checked"]),
                str(nearest["copies"]),
                *(f"{value:.2f}" for value in cells),
                f"{features['median_relative']:.2f}",
                percent(features["same_class"]),
            )
        )
    pictures = _pictures(folder / "neighbours.safetensors")
    strips: list[Markup] = []
    for row in found["rows"]:
        if row["method"] in pictures:
            shown = _strips(row["shown"], pictures[row["method"]], found["classes"])
            strips += (
                [element("h3", row["label"]), shown] if not strips else [fold(row["label"], shown)]
            )
    title = "Nearest real images"
    return section(title, table(NEAREST_HEADINGS, rows), notes(*_nearest_notes(found)), *strips)


def _nearest_notes(found: Mapping[str, Any]) -> list[str]:
    return [
        f"Looked for among {found['num_real']:,} real training images. Distances are in units of "
        "what is usual: the median distance from a real image to its nearest other one.",
        f"A copy lies nearer in pixels than {found['options']['copy']:g} of that (our choice): "
        "random real images are all copies, at 0. The copy of a part, a tile of a mosaic or a "
        "mirrored image is not found that way.",
        "To second: distance to the nearest over that to the second nearest, the median. Near 1 no "
        "real image stands out; far below 1 the images follow single real ones.",
        "Pictures: of every class the image that is nearest to a real one, with its distance, then "
        f"its {found['options']['shown']} nearest real images.",
    ]


def _pictures(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged {path}: {error}; delete it and run audit again") from error


def _strips(shown: Sequence[Mapping[str, Any]], pictures: Tensor, names: Sequence[str]) -> Markup:
    cells = []
    for one, images in zip(shown, pictures, strict=True):
        uri = data_uri(strip_png(images.float() / 255), "image/png")
        name = names[one["label"]]
        alt = f"{name}: an image of the set and its {len(images) - 1} nearest real images"
        label = element("span", f"{name}, {one['relative']:.2f}")
        cells.append(join([label, void_element("img", src=uri, alt=alt)]))
    return element("div", *cells, class_="strips")


def _calibration(path: Path) -> list[Markup]:
    results = load_results(path) if path.is_file() else []
    rows = []
    for result in results:
        told = [s.calibration_error for s in result.students]
        errors = [error for error in told if error is not None]
        if errors:
            spread = statistics.stdev(errors) if len(errors) > 1 else None
            error = percent(statistics.mean(errors), spread)
            loss = statistics.mean(student.loss for student in result.students)
            rows.append((result.full_label, error, percent(result.mean), f"{loss:.3f}"))
    if not rows:
        return []
    headings = ("Set", "Calibration error, %", "Accuracy, %", "Test loss")
    text = (
        "How far the students' confidence is from how often they are right, on test images after "
        "the last epoch, over 15 bins of equal width: 0 where a student that says 80 % is right "
        "in 80 % of the cases. ± is over students."
    )
    return [section("Calibration", table(headings, rows), notes(text))]
