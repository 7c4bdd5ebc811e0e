"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

from geodm_lightning.types import InputError


class Partial:
    """A temporary neighbour of a folder, renamed into its place when the block ends well.

    An older folder of that name is replaced.

    Args:
        target: Where the folder shall be.

    Raises:
        InputError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "set"
        >>> with Partial(target) as folder:
        ...     _ = (folder / "file").write_text("content")
        >>> [path.name for path in target.iterdir()]
        ['file']
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.{os.getpid()}.partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise self._unwritable(error) from error
        return self.folder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._rename()
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._unwritable(error) from error

    def _rename(self) -> None:
        outdated = self.folder.with_suffix(".outdated")
        if self.target.exists():
            self.target.replace(outdated)
        self.folder.replace(self.target)
        if outdated.is_dir():
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            outdated.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> InputError:
        reason = error.strerror or str(error)
        return InputError(f"cannot write {self.target}: {reason}; choose another place")
