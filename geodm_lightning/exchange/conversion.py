"""From one format to another, with the views that came with a set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.native import VIEWS, dataset_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.views import import_views
from geodm_lightning.exchange.writing import losses, spec_of, write_set
from geodm_lightning.types import DatasetSpec, InputError


def convert_set(
    source: Path,
    target: Path,
    *,
    to: str,
    spec: DatasetSpec | None,
    declared: Declaration,
    overwrite: bool = False,
    whiten: Path | None = None,
    views: Path | None = None,
    results: str = "",
) -> tuple[str, ...]:
    """Read a set in one format and write it in another.

    FKD labels go with a set that becomes native, as ``views/`` in its folder.

    Args:
        source: File or folder to read.
        target: File or folder to make.
        to: Format of ``target``.
        spec: Data set of a foreign source; None takes that of a native one.
        declared: What the caller says of a foreign source.
        overwrite: Whether ``target`` may be replaced.
        whiten: Whitening of ``target``.
        views: Given views or a label store, for ``fkd``; those of a native source if None.
        results: Markdown for the card of ``hf``.

    Returns:
        What had to be inferred, and what ``to`` loses.

    Raises:
        InputError: As :func:`~geodm_lightning.exchange.reading.read_set` and
            :func:`~geodm_lightning.exchange.writing.write_set`.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target} is the source itself; choose another place")
    imported = read_set(source, spec=spec or _own_spec(source), declared=declared)
    if to == "fkd" and views is None and (source / VIEWS).is_dir():
        views = source / VIEWS
    staged = target.with_name(f".{target.name}.{os.getpid()}.{VIEWS}")
    try:
        has_views = to == "native" and imported.views is not None
        if has_views:
            import_views(imported, staged, seed=declared.seed)
        write_set(
            target,
            imported.distilled,
            format=to,
            overwrite=overwrite,
            zca=whiten,
            views=views,
            seed=declared.seed,
            results=results,
        )
        if has_views:
            staged.replace(target / VIEWS)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return (*imported.warnings, *losses(imported.distilled, to))


def _own_spec(source: Path) -> DatasetSpec:
    if not source.exists():
        raise InputError(f"there is no distilled set at {source}; correct the path")
    name = dataset_of(source)
    if name is None:
        raise InputError(f"{source} does not say what it was made from; name it by data=NAME")
    own = spec_of(load_set(source))
    return own if own.class_names else dataset_spec(name)
