"""A distilled set on disk: one folder, tensors and a manifest, checked when read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.manifest import FORMAT_VERSION, MANIFEST, damaged, read_manifest
from geodm_lightning.files import sha256_of, write_json
from geodm_lightning.types import InputError

TENSORS = ("images", "labels")  # NAME.safetensors holds one tensor, NAME
SOFT = "soft_labels"  # likewise, where the manifest has this key too


def class_hash(names: Sequence[str]) -> str:
    """Return a SHA-256 over class names and their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def save_set(folder: Path, distilled: DistilledSet) -> Path:
    """Write a set into ``folder``, which appears whole or not at all.

    Args:
        folder: Folder to make; an older set there is replaced.
        distilled: The set to write.

    Returns:
        ``folder``.

    Raises:
        InputError: If the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    outdated = partial.with_suffix(".outdated")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in TENSORS if distilled.soft_labels is None else (*TENSORS, SOFT):
            tensor = getattr(distilled, name).cpu().contiguous()
            save_file({name: tensor}, partial / f"{name}.safetensors")
        write_json(partial / MANIFEST, _manifest(partial, distilled))
        if folder.exists():
            folder.replace(outdated)
        partial.replace(folder)
        shutil.rmtree(outdated, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise InputError(
            f"cannot write the distilled set {folder}: {error}; "
            "choose another folder with run_dir=PATH or free space"
        ) from error
    return folder


def _manifest(folder: Path, distilled: DistilledSet) -> dict[str, Any]:
    """Say what there is to know about a set whose tensors are in ``folder``."""
    dataset = distilled.manifest["dataset"]
    names = list(dataset.get("class_names", ()))
    stated = {key: value for key, value in distilled.manifest.items() if key != SOFT}
    if distilled.soft_labels is not None:
        stated[SOFT] = distilled.manifest.get(SOFT, {"kind": "logits"})
    return {
        "format_version": FORMAT_VERSION,
        "licence": dataset.get("licence"),
        "classes": {"names": names, "sha256": class_hash(names) if names else None},
        **stated,
        "space": "uint8" if distilled.images.dtype == torch.uint8 else "unit",
        "shape": list(distilled.images.shape),
        "digest": distilled.digest(),
        "sha256": {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
    }


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a finished set; folders appear whole, so the manifest tells."""
    return (folder / MANIFEST).is_file()


def load_set(folder: Path) -> DistilledSet:
    """Read a set and check it against its manifest; never runs code from the file.

    Args:
        folder: Folder written by :func:`save_set`.

    Returns:
        The set, on the CPU, exactly as it was saved.

    Raises:
        InputError: If a file is missing, damaged or does not fit the manifest.
    """
    manifest = read_manifest(folder)
    images, labels = (_read_tensor(folder, name, manifest) for name in TENSORS)
    soft_labels = _read_tensor(folder, SOFT, manifest) if SOFT in manifest else None
    num_classes = manifest["dataset"]["num_classes"]
    if images.dim() != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        shapes = f"{tuple(images.shape)} images, {tuple(labels.shape)} labels"
        raise damaged(folder, f"shapes do not fit: {shapes}")
    if images.dtype not in (torch.float32, torch.uint8):
        raise damaged(folder, f"pixels are {images.dtype}, neither float32 nor uint8")
    if labels.dtype != torch.int64 or labels.min() < 0 or labels.max() >= num_classes:
        raise damaged(folder, f"labels are not class indices below {num_classes}")
    if soft_labels is not None:
        if soft_labels.dtype != torch.float32 or soft_labels.shape != (len(images), num_classes):
            found = f"{tuple(soft_labels.shape)} {soft_labels.dtype}"
            raise damaged(folder, f"soft labels are {found}, not one float32 logit per class")
        if not soft_labels.isfinite().all():
            raise damaged(folder, "soft labels are not finite")
    return DistilledSet(images, labels, manifest, soft_labels)


def _read_tensor(folder: Path, key: str, manifest: dict[str, Any]) -> Tensor:
    """Read the one tensor of ``KEY.safetensors`` and check it against the manifest."""
    path = folder / f"{key}.safetensors"
    if not path.is_file():
        raise damaged(folder, f"{path.name} is missing")
    if sha256_of(path) != manifest["sha256"].get(path.name):
        raise damaged(folder, f"{path.name} does not have the SHA-256 its manifest names")
    try:
        return load_file(path)[key]
    except (SafetensorError, KeyError) as error:
        raise damaged(folder, f"{path.name} cannot be read ({error})") from error
