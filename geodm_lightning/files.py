"""Writing files whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geodm_lightning.types import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary neighbour of ``path``, then rename it into place.

    A reader sees the old file or the new one, never a part of either, also when the
    process is killed or the disk is full.

    Args:
        path: Final location; missing parent folders are made.
        write: Called with the temporary path, which has the suffix of ``path``.

    Returns:
        ``path``.

    Raises:
        InputError: If the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write {path}: {reason}; choose another folder with run_dir=PATH or free space"
        ) from error
    return path


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all.

    Raises:
        ValueError: If ``value`` holds NaN or infinity, which JSON cannot express.
    """
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def name_of(identity: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that name what plain values decide, such as a trained model."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def identity_in(path: Path, *, again: str) -> str | None:
    """Return the ``identity`` that a JSON file tells, None where there is no file.

    Args:
        path: The file.
        again: What makes it, for readers.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"damaged {path}: {error!r}; delete it to {again} again") from error
