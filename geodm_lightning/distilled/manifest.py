"""What a distilled set says of itself; read without a library of tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geodm_lightning.types import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REQUIRED = ("method", "label", "ipc", "factor", "dataset")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a set says of itself, without a look at its tensors.

    Args:
        folder: Folder of a set.

    Returns:
        The manifest, with all keys that are required.

    Raises:
        InputError: If it is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"no distilled set in {folder}: {MANIFEST} is missing; run the stage distill first"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(folder, f"{MANIFEST} is not JSON ({error})") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise damaged(folder, f"format_version is {version}, expected {FORMAT_VERSION}")
    missing = [key for key in (*REQUIRED, "sha256") if key not in manifest]
    if missing:
        raise damaged(folder, f"{MANIFEST} lacks {', '.join(missing)}")
    dataset = manifest["dataset"]
    if not isinstance(dataset, dict) or not isinstance(dataset.get("num_classes"), int):
        raise damaged(folder, f"{MANIFEST} names no data set with its num_classes")
    if not isinstance(manifest["sha256"], dict):
        raise damaged(folder, f"{MANIFEST} lists no sha256 by file")
    return manifest


def damaged(folder: Path, reason: str) -> InputError:
    """Return the mistake of naming a folder that cannot be read, with the way out."""
    return InputError(
        f"damaged distilled set {folder}: {reason}; delete the folder to distil it again"
    )
