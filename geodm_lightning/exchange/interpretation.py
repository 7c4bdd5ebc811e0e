"""From what a file holds to a distilled set, saying what had to be inferred."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import Declaration, Imported
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.label_kinds import Labels, positions, understand_labels
from geodm_lightning.exchange.spaces import normalised_as, settle_space
from geodm_lightning.files import sha256_of
from geodm_lightning.provenance import provenance
from geodm_lightning.types import DatasetSpec, InputError


def interpret(
    foreign: Foreign, path: Path, spec: DatasetSpec, declared: Declaration, *, format: str
) -> Imported:
    """Make a distilled set of foreign tensors.

    Images are listed class by class, in the order of the file within a class. ``ipc`` is the
    number of stored images of a class; of the largest one where classes differ, so that random
    images of as many per class are never fewer than the set's.

    Args:
        foreign: What the file holds.
        path: The file or folder.
        spec: Data set it was made from.
        declared: What the caller says.
        format: Name of the format.

    Raises:
        InputError: If tensors do not fit each other, the data set, or what is declared.
    """
    _check_shapes(foreign, spec)
    labels = _labels(foreign, spec, declared)
    labels, renumbered = _in_our_order(labels, foreign, spec, declared, format)
    normalisation = normalised_as(spec, format, declared)
    settled = settle_space(foreign.images, normalisation, declared, custom=foreign.space)
    factor, guessed = _factor(foreign, spec, declared, format)
    ipc, uneven = _images_per_class(labels.classes, spec)
    order = labels.classes.sort(stable=True).indices
    is_listed = torch.equal(order, torch.arange(len(order)))
    moved = () if is_listed else ("images were not listed class by class; they are now",)
    found = (*foreign.warnings, *settled.warnings, *labels.warnings, *renumbered)
    warnings = (*found, *guessed, *uneven, *moved)
    source: dict[str, Any] = {
        "format": format,
        "path": path.name,
        "sha256": _hashes(foreign.files, path),
        "space": settled.space,
        "labels": labels.kind,
        "declared": _plain(declared),
        "warnings": list(warnings),
    }
    if settled.space == "normalised":
        source |= {"mean": list(normalisation.mean), "std": list(normalisation.std)}
    distilled = DistilledSet(
        settled.images[order].contiguous(),
        labels.classes[order].contiguous(),
        _manifest(foreign, labels, spec, source, label=path.stem, ipc=ipc, factor=factor),
        None if labels.logits is None else labels.logits[order].contiguous(),
    )
    positions = None if foreign.views is None else order.argsort()
    return Imported(distilled, warnings, foreign.views, positions)


def _manifest(
    foreign: Foreign,
    labels: Labels,
    spec: DatasetSpec,
    source: dict[str, Any],
    *,
    label: str,
    ipc: int,
    factor: int,
) -> dict[str, Any]:
    manifest = {
        "method": "imported",
        "label": label,
        "ipc": ipc,
        "factor": factor,
        "dataset": spec._asdict(),
        "source": source,
        "provenance": dict(_reader()),
    }
    if labels.logits is not None:
        manifest["soft_labels"] = {"kind": "logits", "source": f"came with {source['path']}"}
    if foreign.learned:
        manifest["learned"] = dict(foreign.learned)
    return manifest


@functools.cache
def _reader() -> dict[str, Any]:
    """Who reads: program, revision and machine, asked once per process."""
    return provenance(torch.device("cpu"))


def _check_shapes(foreign: Foreign, spec: DatasetSpec) -> None:
    images, labels = foreign.images, foreign.labels
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"images are of shape {tuple(images.shape)}, not (N, channels, h, w)")
    for name, other in (("labels", labels), ("soft labels", foreign.soft_labels)):
        if other is not None and len(other) != len(images):
            raise InputError(f"there are {len(images)} images and {len(other)} {name}")
    expected = (spec.channels, spec.resolution, spec.resolution)
    if images.shape[1:] != expected:
        way_out = "data=NAME of their data set or set data.resolution"
        if images.shape[-1] == spec.channels:
            way_out = "channels first, (N, channels, h, w)"
        raise InputError(
            f"images are of shape {tuple(images.shape[1:])}, those of {spec.name} of {expected}; "
            f"use {way_out}"
        )


def _labels(foreign: Foreign, spec: DatasetSpec, declared: Declaration) -> Labels:
    if foreign.labels is not None:
        hard = declared if foreign.soft_labels is None else declared._replace(labels=None)
        labels = understand_labels(foreign.labels, spec, hard)
    else:
        ipc, rest = divmod(len(foreign.images), spec.num_classes)
        if rest:
            raise InputError(
                f"{len(foreign.images)} images without labels cannot be of {spec.num_classes} "
                f"classes in equal numbers; use data=NAME of their data set"
            )
        listed = torch.arange(spec.num_classes).repeat_interleave(ipc)
        labels = Labels(listed, None, "classes")
    if foreign.soft_labels is None:
        return labels
    soft = understand_labels(foreign.soft_labels, spec, declared)
    if soft.logits is None:
        raise InputError("soft labels are one value per image, not a row of them")
    about_kind = tuple(text for text in soft.warnings if text.startswith("inferred"))
    return Labels(labels.classes, soft.logits, soft.kind, (*labels.warnings, *about_kind))


def _in_our_order(
    labels: Labels, foreign: Foreign, spec: DatasetSpec, declared: Declaration, format: str
) -> tuple[Labels, tuple[str, ...]]:
    """Renumber classes that the file numbers in another order."""
    order = foreign.order if declared.order is None else declared.order
    if foreign.in_our_order or order is None:
        doubtful = spec.name in IMAGENET_SUBSETS and not foreign.in_our_order
        warning = f"inferred order: labels number the classes of {spec.name} by WordNet folder"
        return labels, (warning,) if doubtful else ()
    ours = positions(order, spec)
    logits = labels.logits
    if logits is not None:
        logits = torch.empty_like(logits).index_copy_(1, ours, logits)
    renumbered = labels._replace(classes=ours[labels.classes], logits=logits)
    if declared.order is not None:
        return renumbered, ()
    return renumbered, (
        f"inferred order: labels number the classes of {spec.name} as {format} does",
    )


def _factor(
    foreign: Foreign, spec: DatasetSpec, declared: Declaration, format: str
) -> tuple[int, tuple[str, ...]]:
    factor = declared.factor if declared.factor is not None else (foreign.factor or 1)
    if spec.resolution % factor:
        raise InputError(
            f"factor={factor} does not divide images of {spec.resolution} pixels; declare factor="
        )
    if declared.factor is not None or foreign.factor is None:
        return factor, ()
    return factor, (
        f"inferred factor={factor}, usual for {format}: a mosaic is stored as an ordinary image, "
        "so the file cannot tell; declare factor= (1 for whole images)",
    )


def _images_per_class(classes: Tensor, spec: DatasetSpec) -> tuple[int, tuple[str, ...]]:
    counts = classes.bincount(minlength=spec.num_classes)
    if not counts.all():
        missing = (counts == 0).nonzero().flatten().tolist()
        names = [spec.class_names[i] if spec.class_names else str(i) for i in missing[:5]]
        raise InputError(
            f"{len(missing)} of the {spec.num_classes} classes of {spec.name} have no image: "
            f"{', '.join(names)}{' …' if len(missing) > 5 else ''}; use data=NAME of their data set"
        )
    smallest, largest = int(counts.min()), int(counts.max())
    if smallest == largest:
        return largest, ()
    return largest, (
        f"classes have {smallest} to {largest} images; ipc={largest} is what random images get",
    )


def _hashes(files: tuple[Path, ...], path: Path) -> dict[str, str]:
    root = path if path.is_dir() else path.parent
    return {str(file.relative_to(root)): sha256_of(file) for file in files}


def _plain(declared: Declaration) -> dict[str, Any]:
    """What was declared, as plain values."""
    given = {
        key: value
        for key, value in declared._asdict().items()
        if value is not None and value != Declaration._field_defaults[key]
    }
    return {key: value.name if isinstance(value, Path) else value for key, value in given.items()}
