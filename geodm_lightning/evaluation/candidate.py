"""What is judged: a distilled set or all real images, seen alike by the students."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geodm_lightning.data.batches import Fetch, fetch_from_table
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.types import DatasetSpec, InputError


class Candidate(NamedTuple):
    """Training images of students, with what their result must tell.

    Attributes:
        method: Identifier of the method, such as ``"geodm"``.
        label: Name shown to readers.
        ipc: Stored images per class, None for all real images.
        digest: Identity of the images; students of another digest are never taken over.
        schedule_share: Share of the published iterations behind the images, if any.
        fetch: Maps indices ``(n,)`` to normalised images ``(n, ch, h, w)``.
        labels: ``(N,)`` class indices on the device of the images.
        cost: What making the set took, as its manifest tells; None where nothing was learned.
        geometry: Curvatures and weights it ended with, likewise.
        soft_labels: ``(N, K)`` float32 logits that came with the images, on their device.
    """

    method: str
    label: str
    ipc: int | None
    digest: str
    schedule_share: float | None
    fetch: Fetch
    labels: Tensor
    cost: dict[str, Any] | None = None
    geometry: dict[str, float] | None = None
    soft_labels: Tensor | None = None


def candidate_from_set(
    distilled: DistilledSet, *, spec: DatasetSpec, device: torch.device
) -> Candidate:
    """Make a distilled set ready to be judged: mosaics cut, on the device.

    Pixels of 8 bits stay that small: they are normalised when they are fetched.

    Args:
        distilled: The set as it is stored; ``schedule_share`` is read from its manifest.
        spec: Data set of the real images it will be judged on.
        device: Where students are trained.

    Raises:
        InputError: If the set was distilled from another data set, holds other shapes, or a
            pixel that is not finite.
    """
    manifest = distilled.manifest
    label, name = str(manifest["label"]), manifest["dataset"]["name"]
    if name != spec.name:
        raise InputError(
            f"the set of {label} was distilled from {name}, not {spec.name}; use data={name}"
        )
    shape = (spec.channels, spec.resolution, spec.resolution)
    if distilled.images.shape[1:] != shape:
        raise InputError(
            f"the set of {label} holds images of shape {tuple(distilled.images.shape[1:])}, "
            f"{spec.name} of {shape}; distil it again for this resolution"
        )
    if distilled.images.is_floating_point() and not distilled.images.isfinite().all():
        raise InputError(f"the set of {label} holds pixels that are not finite; distil it again")
    decoded = distilled.decode()
    return Candidate(
        method=str(manifest["method"]),
        label=label,
        ipc=int(manifest["ipc"]),
        digest=distilled.digest(),
        schedule_share=manifest.get("schedule_share"),
        fetch=_fetch(decoded._replace(images=decoded.images.to(device)), spec),
        labels=decoded.labels.to(device),
        cost=manifest.get("cost"),
        geometry=manifest.get("geometry"),
        soft_labels=None if decoded.soft_labels is None else decoded.soft_labels.to(device),
    )


def _fetch(distilled: DistilledSet, spec: DatasetSpec) -> Fetch:
    if distilled.images.is_floating_point():
        images = normalise(distilled.images, spec)
        return lambda indices: images[indices]
    return lambda indices: normalise(distilled.unit_images(indices), spec)


def candidate_from_table(table: ImageTable, *, method: str, label: str) -> Candidate:
    """Make all real training images ready to be judged: the upper reference of a table.

    Args:
        table: Real training images, gathered where students are trained.
        method: Identifier of the row.
        label: Name shown to readers.
    """
    identity = f"{table.spec}/{table.class_counts.tolist()}"
    return Candidate(
        method=method,
        label=label,
        ipc=None,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        schedule_share=None,
        fetch=fetch_from_table(table),
        labels=table.labels.to(table.device),
    )
