"""The image folder of Hugging Face `datasets`: pictures, metadata and a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.card import card, class_names
from geodm_lightning.exchange.class_folders import stack_pictures
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.folders import Partial
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.pictures import to_bytes, write_picture
from geodm_lightning.types import DatasetSpec, InputError

SPLIT = "train"
METADATA = "metadata.jsonl"
CARD = "README.md"


def is_image_folder(path: Path) -> bool:
    """Whether ``path`` has a ``metadata.jsonl``, itself or in ``train``."""
    return _metadata(path) is not None


def read_image_folder(path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign:
    """Read the pictures that ``metadata.jsonl`` lists, in its order.

    Every line holds ``file_name``, ``label`` (a number: names would be sorted by the reader),
    ``class`` (its name) and, if there are soft labels, ``soft_label`` (logits). Where the names
    are those of the data set, they tell the order of the numbers.
    """
    metadata = _metadata(path)
    if metadata is None:
        raise InputError(f"{path} has no {METADATA}, nor {SPLIT}/{METADATA}")
    rows = [_row(line, metadata, number) for number, line in enumerate(_lines(metadata), start=1)]
    if not rows:
        raise InputError(f"{metadata} lists no pictures")
    paths = [metadata.parent / row["file_name"] for row in rows]
    for picture in paths:
        if not picture.resolve().is_relative_to(path.resolve()):
            raise InputError(f"refused {metadata}: {picture.name} leads out of {path}")
        if not picture.is_file():
            raise InputError(f"{metadata} names {picture}, which does not exist")
    soft = [row["soft_label"] for row in rows if "soft_label" in row]
    try:
        labels = torch.tensor([row["label"] for row in rows])
        soft_labels = torch.tensor(soft, dtype=torch.float32) if soft else None
    except (TypeError, ValueError) as error:
        raise InputError(f"{metadata} holds labels that are no numbers ({error})") from error
    images = stack_pictures(paths, root=path, channels=spec.channels)
    order = _named_order(rows, labels, spec, metadata)
    return Foreign(
        images,
        labels,
        (metadata, *paths),
        space="uint8",
        soft_labels=soft_labels,
        order=order,
        in_our_order=order == spec.class_names and declared.order is None,
    )


def write_image_folder(
    target: Path, distilled: DistilledSet, spec: DatasetSpec, *, results: str = ""
) -> Path:
    """Write a folder that ``datasets.load_dataset`` reads, mosaics cut, pixels in 8 bits.

    Args:
        target: Folder to make.
        distilled: The set.
        spec: Its data set.
        results: Markdown of what students reached, for the card.
    """
    decoded = distilled.decode()
    pixels, moved = to_bytes(decoded.images)
    names, lines = class_names(spec), []
    with Partial(target) as folder:
        (folder / SPLIT).mkdir()
        for index, image in enumerate(pixels):
            label = int(decoded.labels[index])
            name = f"{index:06d}.png"
            row: dict[str, Any] = {"file_name": name, "label": label, "class": names[label]}
            if decoded.soft_labels is not None:
                row["soft_label"] = decoded.soft_labels[index].tolist()
            write_picture(folder / SPLIT / name, image)
            lines.append(json.dumps(row, allow_nan=False))
        (folder / SPLIT / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
        text = card(decoded, spec, rounding=moved, results=results)
        (folder / CARD).write_text(text, encoding="utf-8")
    return target


def _named_order(
    rows: list[dict[str, Any]], labels: Tensor, spec: DatasetSpec, path: Path
) -> tuple[str, ...] | None:
    """Return the class names in the order of the labels, None where they do not tell."""
    named: dict[int, str] = {}
    if labels.ndim != 1 or not all(isinstance(row.get("class"), str) for row in rows):
        return None
    for label, row in zip(labels.tolist(), rows, strict=True):
        name = row["class"]
        if named.setdefault(label, name) != name:
            raise InputError(f"{path} calls label {label} both {named[label]!r} and {name!r}")
    order = tuple(named[label] for label in sorted(named))
    listed = sorted(named) == list(range(spec.num_classes))
    return order if listed and sorted(order) == sorted(spec.class_names) else None


def _metadata(path: Path) -> Path | None:
    found = [folder / METADATA for folder in (path, path / SPLIT)]
    return next((entry for entry in found if entry.is_file()), None)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error})") from error


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {number} is not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "label" not in row:
        raise InputError(f"{path} line {number} lacks file_name or label")
    return row
