"""The C kernels, compiled for the processor at hand when they are first called.

They are compiled by the C compiler that ``CC`` names, or ``cc``, in about a second, and kept in
the user's cache (``$XDG_CACHE_HOME/geodm_lightning``, else ``~/.cache/geodm_lightning``) under a
name that follows from source, command and processor. Where none can be compiled, or where they do
not agree with PyTorch, PyTorch's operations do the work and one line says why. Their threads are
OpenMP's, as PyTorch's are: the same ones, where both bring the same library.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.processes import say_once

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=gnu11", "-shared", "-fPIC")
LINKED = ("-lm",)
MULTIPLE = 32  # channels are one of it: panels of every processor's vectors
AGREEMENT = 1e-4  # with PyTorch's results, in shares of the largest
SECONDS = 120  # for the compiler
_NO_MEMORY = 1


class BuildError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


def is_able() -> bool:
    """Whether the kernels can be called here; why not is said once."""
    reason = obstacle()
    if reason is not None:
        say_once(f"convolutions on the CPU are PyTorch's, which are slower: {reason}")
    return reason is None


@cache
def obstacle() -> str | None:
    """Compile the kernels and compare a convolution with PyTorch's.

    Returns:
        Why they cannot be used, None if they can.
    """
    try:
        _library()
    except BuildError as error:
        return str(error)
    return None if _agrees() else "the compiled kernels do not agree with PyTorch"


def call(name: str, *values: Tensor | int | float | None) -> None:
    """Call a kernel with as many threads as its last argument says; others of Python's run on.

    Args:
        name: Of the C function.
        values: Its arguments. Tensors are float32 on the CPU and contiguous; None is no tensor.

    Raises:
        MemoryError: If there is none for what the kernel works in.
        ValueError: If a tensor is of another type or not contiguous.
    """
    function = getattr(_library(), name)
    if function(*map(_argument, values)) == _NO_MEMORY:
        raise MemoryError(f"no memory for the kernel {name}")


def panel() -> int:
    """Return how many columns of a product the kernels work on at once.

    Raises:
        BuildError: If the kernels cannot be compiled here.
    """
    return int(_library().panel_width())


def compiler() -> list[str]:
    """Return the command of the C compiler.

    Raises:
        BuildError: If there is none.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise BuildError(f"no C compiler {command[0]} was found; install one, or name it in CC")
    return command


def _argument(value: Tensor | int | float | None) -> Any:
    if isinstance(value, Tensor):
        if value.dtype != torch.float32 or not value.is_contiguous():
            raise ValueError(f"kernels take contiguous float32 tensors, got {value.dtype}")
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)


@cache
def _library() -> ctypes.CDLL:
    command = compiler()
    name = f"kernels-{_identity(command)}.so"
    folder = _cache_folder()
    path = folder / name
    try:
        if not path.is_file():
            _build(command, path)
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"kernels cannot be kept in {folder} ({error})") from error
    for function in ("norm_relu_pool", "norm_relu_pool_gradients", "winograd_kernels"):
        getattr(library, function).restype = None
    return library


def _build(command: list[str], path: Path) -> None:
    """Compile to a path that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        sources = map(str, sorted(SOURCES.glob("*.c")))
        whole = [*command, *FLAGS, *sources, *LINKED, "-o", str(partial)]
        try:
            subprocess.run(whole, check=True, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if line.strip()] or [""]
            raise BuildError(f"{command[0]} fails ({lines[0][:160]})") from error
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{command[0]} takes longer than {SECONDS} s") from error
        partial.replace(path)


def _identity(command: list[str]) -> str:
    """Return a name for what a compiler makes of the sources for this processor."""
    digest = hashlib.sha256(repr((command, FLAGS, LINKED, _processor())).encode())
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Return what distinguishes processors that run different instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()} {flags}"


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "geodm_lightning"


@torch.no_grad()
def _agrees() -> bool:
    generator = torch.Generator().manual_seed(0)
    channels, side = MULTIPLE, 7
    maps = torch.randn(2, channels, side, side, generator=generator)
    weight = torch.randn(channels, channels, 3, 3, generator=generator)
    kernels = torch.empty(36, channels, channels)
    result = torch.empty(2, side, side, channels)
    call("winograd_kernels", weight, channels, channels, 9 * channels, 9, 0, kernels, 1)
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    shape = (2, side, side, channels, 1)
    call("winograd_convolve", pixels, *shape, kernels, None, result, channels, 2)
    expected = functional.conv2d(maps, weight, padding=1).permute(0, 2, 3, 1)
    bound = AGREEMENT * float(expected.abs().max())
    return torch.allclose(result, expected, rtol=0, atol=bound)
