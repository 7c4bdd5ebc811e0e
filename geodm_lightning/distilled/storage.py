"""A distilled set on disk: one folder, tensors and a manifest, checked when read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.files import sha256_of, write_json
from geodm_lightning.types import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = {"images": "images.safetensors", "labels": "labels.safetensors"}
REQUIRED = ("method", "label", "ipc", "factor", "dataset")


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
        save_file({"images": distilled.images.cpu().contiguous()}, partial / TENSORS["images"])
        save_file({"labels": distilled.labels.cpu().contiguous()}, partial / TENSORS["labels"])
        write_json(
            partial / MANIFEST,
            {
                "format_version": FORMAT_VERSION,
                **distilled.manifest,
                "space": "uint8" if distilled.images.dtype == torch.uint8 else "unit",
                "shape": list(distilled.images.shape),
                "digest": distilled.digest(),
                "sha256": {name: sha256_of(partial / name) for name in TENSORS.values()},
            },
        )
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
    manifest = _read_manifest(folder)
    tensors = {}
    for key, name in TENSORS.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if sha256_of(path) != manifest["sha256"].get(name):
            raise _damaged(folder, f"{name} does not have the SHA-256 its manifest names")
        try:
            tensors[key] = load_file(path)[key]
        except (SafetensorError, KeyError) as error:
            raise _damaged(folder, f"{name} cannot be read ({error})") from error
    images, labels = tensors["images"], tensors["labels"]
    num_classes = manifest["dataset"]["num_classes"]
    if images.dim() != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        shapes = f"{tuple(images.shape)} images, {tuple(labels.shape)} labels"
        raise _damaged(folder, f"shapes do not fit: {shapes}")
    if images.dtype not in (torch.float32, torch.uint8):
        raise _damaged(folder, f"pixels are {images.dtype}, neither float32 nor uint8")
    if labels.dtype != torch.int64 or labels.min() < 0 or labels.max() >= num_classes:
        raise _damaged(folder, f"labels are not class indices below {num_classes}")
    return DistilledSet(images=images, labels=labels, manifest=manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"no distilled set in {folder}: {MANIFEST} is missing; run the stage distill first"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(folder, f"{MANIFEST} is not JSON ({error})") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise _damaged(folder, f"format_version is {version}, expected {FORMAT_VERSION}")
    missing = [key for key in (*REQUIRED, "sha256") if key not in manifest]
    if missing:
        raise _damaged(folder, f"{MANIFEST} lacks {', '.join(missing)}")
    return manifest


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(
        f"damaged distilled set {folder}: {reason}; delete the folder to distil it again"
    )
