"""Who is at work: locks that the system opens again however their holder ends, also by a kill."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACES = ".sweepers"  # folder in which sweepers show that they are at work


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block of the same path, then run this one."""
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def present(folder: Path) -> Iterator[str]:
    """Be seen by :func:`is_present` for as long as the block or this process lasts.

    Yields:
        A name that no other holder has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
    path = folder / name
    with path.open("xb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield name
        finally:
            path.unlink()


def is_present(folder: Path, name: str) -> bool:
    """Whether a process still holds a name; the trace of one that was killed is removed."""
    path = folder / name
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    path.unlink(missing_ok=True)
    return False


@contextmanager
def undisturbed(run_dir: Path, name: str) -> Iterator[None]:
    """Run a trial after whoever still runs the very same one, as a job of a cluster may.

    Args:
        run_dir: Folder of the run folders; nothing is waited for where no sweep works in it.
        name: What no two trials share.
    """
    traces = run_dir / TRACES
    if not traces.is_dir():
        yield
        return
    with alone(traces / f"{name}.lock"):
        yield
