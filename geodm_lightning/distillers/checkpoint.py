"""Checkpoints of a distillation: tensors and plain values, whole or refused."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.files import write_atomically
from geodm_lightning.types import InputError

FORMAT_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> Path:
    """Write ``state`` with a digest of its content, whole or not at all.

    Args:
        path: File to write; an older one is replaced.
        state: Nested dictionaries and lists of tensors and plain values.

    Returns:
        ``path``.
    """
    content = {"format_version": FORMAT_VERSION, "digest": _digest(state), "state": state}
    buffer = io.BytesIO()  # torch reports a full disk as an error of its own, a file as OSError
    torch.save(content, buffer)
    return write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state written by :func:`save_checkpoint`, on the CPU; never runs code from it.

    Raises:
        InputError: If the file is damaged, cut off, or holds anything but tensors and
            plain values.
    """
    try:
        with warnings.catch_warnings():
            # A file of another pickle protocol is not ours and is refused below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else "unreadable") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise _damaged(path, f"it is not a checkpoint of format {FORMAT_VERSION}")
    if content.get("digest") != _digest(content.get("state")):
        raise _damaged(path, "its content does not have the digest it names")
    return content["state"]


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"damaged checkpoint {path}: {reason}; delete it to start this stage again")


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digest.update(b"dict")
        for key, item in value.items():
            digest.update(repr(key).encode())
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(b"list")
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
