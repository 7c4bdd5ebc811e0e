"""Any distilled set in: from a path to a set that can be judged."""

from __future__ import annotations

from pathlib import Path

from geodm_lightning.exchange.declaration import Declaration, Imported
from geodm_lightning.exchange.formats import FORMATS, settled_format
from geodm_lightning.exchange.interpretation import interpret
from geodm_lightning.exchange.native import read_native
from geodm_lightning.types import DatasetSpec, InputError

NOTHING_DECLARED = Declaration()


def read_set(
    path: Path, *, spec: DatasetSpec, declared: Declaration = NOTHING_DECLARED
) -> Imported:
    """Read a distilled set of any format; no code in it is run.

    Args:
        path: File or folder.
        spec: Data set it was made from, with its class names.
        declared: What the caller says of it; the rest is inferred, with a warning each.

    Returns:
        The set, class by class, and the warnings.

    Raises:
        InputError: If it cannot be read safely, is damaged, or does not fit the data set or what
            is declared of it.
    """
    declared.check()
    found = settled_format(path, declared.format)
    format = found.name
    try:
        foreign = found.read(path, spec, declared)
        if foreign is None:
            return read_native(path, spec, declared)
        if declared.format is None:
            inferred = f"inferred format={format} ({FORMATS[format].projects})"
            foreign = foreign._replace(warnings=(inferred, *foreign.warnings))
        return interpret(foreign, path, spec, declared, format=format)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
