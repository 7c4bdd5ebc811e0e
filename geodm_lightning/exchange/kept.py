"""Sets that were read, kept for whoever asks for them next.

A run looks at a foreign set before it starts, when it imports it, and again when it is resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeAlias

from torch import Tensor

from geodm_lightning.exchange.declaration import Declaration, Imported
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import DatasetSpec

State: TypeAlias = tuple[tuple[str, int, int], ...]  # name, bytes, time of change of files


class Reading(NamedTuple):
    """What decides the outcome of reading a set.

    Attributes:
        path: File or folder.
        spec: Data set it was made from.
        declared: What the caller says of it.
        state: Of its files.
        whitening: Of the file that undoes one.
    """

    path: Path
    spec: DatasetSpec
    declared: Declaration
    state: State
    whitening: State


class KeptSets:
    """Reads every set once, as long as its files stay and memory is left for it.

    Args:
        most: Bytes of sets that are kept; the oldest make room for others.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sets: dict[Reading, Imported] = {}

    def read(self, path: Path, *, spec: DatasetSpec, declared: Declaration) -> Imported:
        """Read a set as :func:`~geodm_lightning.exchange.reading.read_set` does.

        Returns:
            The set, whose tensors are those that others were given and must not be changed.

        Raises:
            InputError: As there.
        """
        whitening = () if declared.zca is None else state_of(declared.zca)
        key = Reading(path.absolute(), spec, declared, state_of(path), whitening)
        if key not in self._sets:
            imported = read_set(path, spec=spec, declared=declared)
            size = bytes_of(imported)
            while self._sets and sum(map(bytes_of, self._sets.values())) + size > self._most:
                self._sets.pop(next(iter(self._sets)))
            if size > self._most:
                return imported
            self._sets[key] = imported
        return self._sets[key]


def state_of(path: Path) -> State:
    """Return names, sizes and times of change of the files at a path; none where there are none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    known = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in known)


def bytes_of(imported: Imported) -> int:
    """Return the memory of a set."""
    tensors = (*imported.distilled, imported.order)
    return sum(value.nbytes for value in tensors if isinstance(value, Tensor))
