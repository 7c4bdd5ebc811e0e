"""Reading files of others without running what is in them."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodm_lightning.types import InputError

REFUSED = re.compile(r"GLOBAL ([\w.]+)")
SCALARS = ("Float64DType", "Float32DType", "Int64DType", "Int32DType", "UInt8DType", "BoolDType")


def load_torch(path: Path) -> Any:
    """Load a file written by ``torch.save``: tensors, containers, plain and NumPy values.

    Tensors of current files are mapped into memory, not read.

    Args:
        path: The file.

    Returns:
        What was saved, on the CPU.

    Raises:
        InputError: If it is missing, empty, damaged or no such file, or asks for anything else,
            which is named and not run.
    """
    size = _size(path)
    with path.open("rb") as handle:
        is_archive = handle.read(4) == b"PK\x03\x04"
    try:
        with _allowance():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # damaged bytes raise anything
        raise _unreadable(path, error) from error
    _check_storages(content, path, size)
    return content


def load_pickle(path: Path) -> Any:
    """Load a plain pickle that holds tensors, containers, plain and NumPy values.

    Args:
        path: The file.

    Returns:
        What was pickled, on the CPU.

    Raises:
        InputError: As :func:`load_torch`.
    """
    size = _size(path)
    try:
        with path.open("rb") as handle:
            content = _TensorUnpickler(handle).load()
    except Exception as error:  # damaged bytes raise anything
        raise _unreadable(path, error) from error
    _check_storages(content, path, size)
    return content


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors and NumPy values, and asks for nothing else by name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call by ``module.name``; refuse everything else."""
        full = f"{module}.{name}"
        if full == "torch.storage._load_from_bytes":
            return _load_storage
        if full not in _pickle_globals():
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        return _pickle_globals()[full]


def _load_storage(content: bytes) -> Any:
    with _allowance():
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _pickle_globals() -> dict[str, Any]:
    from collections import OrderedDict

    from torch._utils import _rebuild_tensor_v2

    named = {
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
        "collections.OrderedDict": OrderedDict,
    }
    for value in _numpy_globals():
        if isinstance(value, tuple):
            named[value[1]] = value[0]
        else:
            named[f"{value.__module__}.{value.__name__}"] = value
    return named


@contextmanager
def _allowance() -> Iterator[None]:
    with torch.serialization.safe_globals(_numpy_globals()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of other pickle protocols
        yield


def _numpy_globals() -> list[Any]:
    """Constructors of NumPy values, under the names of NumPy 1 and 2."""
    import _codecs

    multiarray: Any = getattr(np, "_core" if hasattr(np, "_core") else "core").multiarray
    functions = (multiarray.scalar, multiarray._reconstruct)
    renamed = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in functions
        for core in ("core", "_core")
    ]
    kinds = [getattr(np.dtypes, name) for name in SCALARS]
    return [np.ndarray, np.dtype, *kinds, *renamed, (_codecs.encode, "_codecs.encode")]


def _check_storages(content: Any, path: Path, size: int) -> None:
    """Refuse tensors that claim more values than the file has bytes for."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized:
                raise InputError(f"{path} holds a tensor that is not dense; save it dense")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise InputError(
                    f"{path} holds a tensor of shape {tuple(value.shape)} in {size} bytes; it is "
                    "damaged or was saved expanded: save it with .contiguous()"
                )
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _size(path: Path) -> int:
    if not path.is_file():
        raise InputError(f"there is no file {path}; correct the path")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path} is empty; fetch it again")
    return size


def _unreadable(path: Path, error: Exception) -> InputError:
    found = REFUSED.search(str(error))
    if found:
        return InputError(
            f"refused {path}: it asks for {found.group(1)}, and only tensors and plain values are "
            "read from files of others; nothing in it was run"
        )
    if isinstance(error, InputError):
        return error
    first = (str(error).splitlines() or [""])[0].partition(". ")[0][:160]
    if isinstance(error, pickle.UnpicklingError):
        first = "no whole file of torch.save"
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return InputError(f"cannot read {path} ({reason}); it is damaged or of another format")
