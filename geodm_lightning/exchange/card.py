"""The card of a published set: what it is, whose images it was made from, and by what."""

from __future__ import annotations

import json

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.types import DatasetSpec

KEPT = ("method", "label", "seed", "schedule", "digest", "source", "learned", "provenance")
HALF_LEVEL = 1 / 500  # what rounding alone may move, a little more than 1/510
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def card(
    distilled: DistilledSet, spec: DatasetSpec, *, rounding: float = 0.0, results: str = ""
) -> str:
    """Return the card in Markdown, with the front matter that Hugging Face reads.

    Args:
        distilled: The set as it is published, mosaics cut.
        spec: Data set it was made from.
        rounding: Largest change of a pixel, in unit range, by rounding to 8 bits.
        results: Markdown of what students reached, empty if they were not asked.
    """
    manifest, num_images = distilled.manifest, len(distilled.images)
    size = next((name for limit, name in SIZES if num_images < limit), "100K<n<1M")
    label = manifest.get("label", "Distilled set")
    licence = manifest.get("licence") or spec.licence
    pixels = "Pixels are 8 bits, as in the set itself."
    if rounding:
        clipped = "" if rounding < HALF_LEVEL else ", because some were outside unit range"
        pixels = (
            f"Pixels were rounded to 8 bits for this folder and moved by up to {rounding:.2g} of "
            f"unit range{clipped}; the set itself has float pixels."
        )
    stated = {key: manifest[key] for key in KEPT if key in manifest}
    sections = [
        "\n".join(_front_matter(spec, size)),
        f"# {label}: {spec.name}, {manifest['ipc']} images per class",
        f"{num_images} synthetic images of {spec.resolution}×{spec.resolution} pixels in "
        f"{spec.num_classes} classes, distilled from {spec.name}. {pixels}",
        f"Licence of the images it was made from: {licence}.",
        "```python\nfrom datasets import load_dataset\n\n"
        'images = load_dataset("PATH", split="train")  # image, label, class\n```',
        f"Labels in order: {', '.join(class_names(spec))}.",
        f"## Results\n\n{results}" if results else "",
        f"## Provenance\n\n```json\n{json.dumps(stated, indent=2)}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def class_names(spec: DatasetSpec) -> list[str]:
    """Return the names of the classes in label order, their numbers where they have none."""
    return list(spec.class_names) or [str(index) for index in range(spec.num_classes)]


def _front_matter(spec: DatasetSpec, size: str) -> list[str]:
    return [
        "---",
        "license: other",
        f"license_name: {json.dumps(spec.licence)}",
        "task_categories:",
        "- image-classification",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- dataset-distillation",
        "---",
    ]
