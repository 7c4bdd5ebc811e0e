"""The framework's own format: safetensors and a manifest."""

from __future__ import annotations

from pathlib import Path

import torch

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.manifest import MANIFEST
from geodm_lightning.distilled.storage import class_hash, load_set, save_set
from geodm_lightning.exchange.declaration import Declaration, Imported
from geodm_lightning.types import DatasetSpec, InputError

VIEWS = "views"  # folder of given views in that of a set which came with some


def is_native(path: Path) -> bool:
    """Whether ``path`` is the folder of a native set, damaged or not."""
    return (path / MANIFEST).is_file()


def dataset_of(path: Path) -> str | None:
    """Return the name of the data set a native set was made from.

    Args:
        path: File or folder of any format.

    Returns:
        The name; None if ``path`` is not a native set.

    Raises:
        InputError: If it is one, but damaged.
    """
    return str(load_set(path).manifest["dataset"]["name"]) if is_native(path) else None


def read_native(path: Path, spec: DatasetSpec, declared: Declaration) -> Imported:
    """Read a native set; nothing needs to be inferred.

    Raises:
        InputError: If it is damaged, of another data set or class order, or something is declared
            of it that its manifest says already.
    """
    for name in ("space", "factor", "labels", "order", "zca", "mean", "std"):
        if getattr(declared, name) is not None:
            raise InputError(f"{path} is a native set and states its own {name}: leave out {name}=")
    distilled = load_set(path)
    name = distilled.manifest["dataset"]["name"]
    if name != spec.name:
        raise InputError(f"{path} was made from {name}, not {spec.name}; use data={name}")
    theirs = distilled.manifest.get("classes", {}).get("sha256")
    if theirs is not None and spec.class_names and theirs != class_hash(spec.class_names):
        raise InputError(
            f"the classes of {path} are not those of {spec.name} here, or in another order "
            f"({MANIFEST} lists them); use the same class folders"
        )
    if (path / VIEWS).is_dir():
        return Imported(distilled, views=path / VIEWS, order=torch.arange(len(distilled.images)))
    return Imported(distilled)


def write_native(target: Path, distilled: DistilledSet) -> Path:
    """Write a native set; see :func:`~geodm_lightning.distilled.storage.save_set`."""
    return save_set(target, distilled)
