"""Where a result comes from: versions, machine, revision, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from geodm_lightning import __version__
from geodm_lightning.native import library

ROOT = Path(__file__).resolve().parent.parent  # of the project

LIBRARIES = ("torch", "torchvision", "lightning", "geoopt", "POT", "timm", "numpy")


def provenance(device: torch.device, precision: str = "32-true") -> dict[str, Any]:
    """Describe program, libraries and machine of this process.

    Args:
        device: Device the run computes on.
        precision: What networks are computed in there.

    Returns:
        Plain values for JSON; ``revision`` is null outside a git checkout, ``native`` says whether
        the C kernels of a CPU are in use or why not.
    """
    return {
        "geodm_lightning": __version__,
        "revision": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": " ".join(["python", script_of(sys.argv[0]), *sys.argv[1:]]),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "device": device_name(device),
        "precision": precision,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native": (library.obstacle() or "compiled") if device.type == "cpu" else None,
    }


def script_of(path: str) -> str:
    """Return a script as one names it from the project's root, or as it was called elsewhere.

    Example:
        >>> script_of(str(ROOT / "experiments" / "run.py")), script_of("experiments/run.py")
        ('experiments/run.py', 'experiments/run.py')
    """
    script = Path(path)
    return str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else path


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the model of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or an installed copy outside a checkout
    return done.stdout.strip()
