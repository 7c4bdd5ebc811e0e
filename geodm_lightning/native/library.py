"""The C kernels, compiled for the processor at hand when they are first called.

They are compiled by the C compiler that ``CC`` names, or ``cc``, in about a second, and kept in
the user's cache (``$XDG_CACHE_HOME/geodm_lightning``, else ``~/.cache/geodm_lightning``) under a
name that follows from source, command and processor; where that cannot be written, a process
compiles its own. Where none can be compiled, or where they do
not agree with PyTorch, PyTorch's operations do the work and one line says why. Their threads are
OpenMP's, as PyTorch's are: the same ones, where both bring the same library.
"""

from __future__ import annotations

import atexit
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

from geodm_lightning.processes import first_line, say_once

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=gnu11", "-shared", "-fPIC")
LINKED = ("-lm",)
MULTIPLE = 32  # channels are one of it: panels of every processor's vectors
AGREEMENT = 1e-4  # with PyTorch's results, in shares of the largest
SECONDS = 120  # for the compiler
# Arguments of the kernels: t a tensor, i a whole number, f another number.
KINDS = {"t": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
SIGNATURES = {
    "panel_width": "",
    "winograd_kernels": "tiiiiiti",
    "winograd_convolve": "tiiiiitttii",
    "winograd_correlate": "tiiiiititi",
    "winograd_block": "tiiiiitttftii",
    "columns_convolve": "tiiiiitttii",
    "columns_correlate": "tiiiiititii",
    "columns_back": "tiiiiittii",
    "columns_block": "tiiiiitttftii",
    "norm_relu_pool": "tiiiittfttti",
    "norm_relu_pool_gradients": "ttiiiittttttti",
}
CANNOT_FAIL = ("norm_relu_pool", "norm_relu_pool_gradients", "winograd_kernels")
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


def pixels_of(maps: Tensor) -> Tensor:
    """Return maps ``(n, C, h, w)`` as kernels read them, ``(n, h, w, C)``, copied where need be."""
    return maps.permute(0, 2, 3, 1).contiguous()


def threads_for(numbers: int, *, alone: int) -> int:
    """Return how many threads share some work.

    Args:
        numbers: How much there is.
        alone: How much one core does sooner than others wake.
    """
    return 1 if numbers < alone else torch.get_num_threads()


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
    if not isinstance(value, Tensor):
        return value
    if value.dtype != torch.float32 or not value.is_contiguous() or value.device.type != "cpu":
        raise ValueError(
            f"kernels take contiguous float32 tensors on the CPU, got {value.dtype} with strides "
            f"{value.stride()} on {value.device}"
        )
    return value.data_ptr()


@cache
def _library() -> ctypes.CDLL:
    command = compiler()
    name = f"kernels-{_identity(command)}.so"
    try:
        library = _loaded(command, _cache_folder() / name)
    except (OSError, RuntimeError) as error:  # no home, or one that cannot be written
        if isinstance(error, BuildError):
            raise
        library = _loaded(command, Path(_own_folder()) / name)
    for function, kinds in SIGNATURES.items():
        found = getattr(library, function)
        found.argtypes = [KINDS[kind] for kind in kinds]
        found.restype = None if function in CANNOT_FAIL else ctypes.c_int
    return library


def _loaded(command: list[str], path: Path) -> ctypes.CDLL:
    """Load a library, compiled first where it is not there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _build(command, path)
    return ctypes.CDLL(str(path))


@cache
def _own_folder() -> str:
    """Return a folder of this process that goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="geodm_lightning-")
    atexit.register(folder.cleanup)
    return folder.name


def _build(command: list[str], path: Path) -> None:
    """Compile to a path that is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        sources = map(str, sorted(SOURCES.glob("*.c")))
        whole = [*command, *FLAGS, *sources, *LINKED, "-o", str(partial)]
        try:
            subprocess.run(whole, check=True, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"{command[0]} fails ({first_line(error.stderr)})") from error
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{command[0]} takes longer than {SECONDS} s") from error
        if not partial.is_file():
            raise BuildError(f"{command[0]} says that all went well and has made nothing")
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
    pixels = pixels_of(maps)
    shape = (2, side, side, channels, 1)
    call("winograd_convolve", pixels, *shape, kernels, None, result, channels, 2)
    expected = functional.conv2d(maps, weight, padding=1).permute(0, 2, 3, 1)
    bound = AGREEMENT * float(expected.abs().max())
    return torch.allclose(result, expected, rtol=0, atol=bound)
