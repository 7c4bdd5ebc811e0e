"""What is in a file of unknown origin, before anything is declared of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from geodm_lightning.data.catalog import catalog
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.formats import FORMATS, settled_format
from geodm_lightning.exchange.native import dataset_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import DatasetSpec, InputError

ANY_SET = DatasetSpec("any", 0, 3, 0, (0.0,) * 3, (1.0,) * 3, (), "", flip=False)
NOTHING = Declaration()
SMALLEST_PICTURE = 64  # pixels of sets that come as pictures of any size


def inspect_set(
    path: Path, *, spec: DatasetSpec | None = None, declared: Declaration = NOTHING
) -> Iterator[str]:
    """Describe a set: format, pixels, labels, duplicates, and what it would be read as.

    Args:
        path: File or folder.
        spec: Data set it was made from; None tries every known one that would fit.
        declared: What the caller says of it.

    Yields:
        Lines for a reader.

    Raises:
        InputError: If it cannot be read safely.
    """
    declared.check()
    found = settled_format(path, declared.format)
    yield f"format      {found.name} ({FORMATS[found.name].projects})"
    foreign = found.read(path, spec or ANY_SET, declared)
    if foreign is None:
        spec = spec or catalog()[str(dataset_of(path))]
    else:
        yield from _describe(foreign)
        specs = [spec] if spec else _candidates(foreign)
        if not specs:
            yield "fits        no known data set by channels, size and classes; give data=NAME"
        for candidate in specs:
            yield from _read_as(path, candidate, declared)
        return
    yield from _read_as(path, spec, declared)


def describe_set(distilled: DistilledSet) -> Iterator[str]:
    """Describe a set whose pixels and labels are understood.

    Yields:
        Lines for a reader.
    """
    unit, counts = distilled.unit_images(), distilled.labels.bincount()
    manifest = distilled.manifest
    soft = "" if distilled.soft_labels is None else ", with soft labels"
    yield (
        f"set         {_shape(distilled.images)}, {_values(unit)} in unit range; "
        f"factor {manifest['factor']}; {_counts(counts)} images per class{soft}"
    )
    yield f"duplicates  {num_duplicates(distilled.images)} images are exact copies of others"


def num_duplicates(images: Tensor) -> int:
    """Return how many images ``(N, ch, h, w)`` are exact copies of an earlier one."""
    seen = {hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images}
    return len(images) - len(seen)


def _read_as(path: Path, spec: DatasetSpec, declared: Declaration) -> Iterator[str]:
    try:
        imported = read_set(path, spec=spec, declared=declared)
    except InputError as error:
        yield f"as {spec.name}: refused: {error}"
        return
    source = imported.distilled.manifest.get("source", {})
    kinds = f": space {source['space']}, labels {source['labels']}" if "space" in source else ""
    yield f"as {spec.name}{kinds}"
    yield from (f"  {line}" for line in describe_set(imported.distilled))
    if imported.views is not None:
        yield f"  views       {imported.views}"
    yield from (f"  warning: {warning}" for warning in imported.warnings)


def _describe(foreign: Foreign) -> Iterator[str]:
    yield f"images      {_shape(foreign.images)}, {_values(foreign.images.float())}"
    labels = foreign.labels if foreign.soft_labels is None else foreign.soft_labels
    if labels is None:
        yield "labels      none, by the order of the images"
    elif labels.ndim == 1 and not labels.is_floating_point() and len(labels):
        counts = _counts(labels.unique(return_counts=True)[1])
        yield f"labels      {int(labels.min())} to {int(labels.max())}, {counts} images each"
    else:
        yield f"labels      {_shape(labels)}, {_values(labels.float())}"
    if foreign.learned:
        learned = ", ".join(f"{key} {value:g}" for key, value in foreign.learned.items())
        yield f"learned     {learned}"


def _candidates(foreign: Foreign) -> list[DatasetSpec]:
    """Known data sets that have as many classes and channels, and such images."""
    images, labels = foreign.images, foreign.labels
    if images.ndim != 4 or len(images) == 0:
        return []
    soft = foreign.soft_labels if foreign.soft_labels is not None else labels
    if soft is not None and soft.ndim == 2:
        classes = {soft.shape[1]}
    elif labels is not None and len(labels) and not labels.is_floating_point():
        classes = {int(labels.max()) + 1}
    else:
        classes = {spec.num_classes for spec in catalog().values()}
    channels = {images.shape[1]}
    if foreign.space == "uint8" and bool((images == images[:, :1]).all()):
        channels = {1}
    size, found = images.shape[-1], []
    for spec in catalog().values():
        as_pictures = spec.resolution >= SMALLEST_PICTURE
        fits = size >= SMALLEST_PICTURE if as_pictures else size == spec.resolution
        if fits and spec.num_classes in classes - {0} and {spec.channels} == channels:
            found.append(spec._replace(resolution=size))
    return found


def _shape(tensor: Tensor) -> str:
    return f"{' × '.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def _values(values: Tensor) -> str:
    if values.numel() == 0:
        return "empty"
    return (
        f"{float(values.min()):.4g} to {float(values.max()):.4g}, mean {float(values.mean()):.4g}"
    )


def _counts(counts: Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
