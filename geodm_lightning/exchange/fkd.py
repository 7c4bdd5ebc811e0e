"""Class folders with FKD labels: SRe2L, CDA, EDC and their heirs."""

from __future__ import annotations

from pathlib import Path

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.class_folders import (
    is_class_folders,
    read_class_folders,
    write_class_folders,
)
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.folders import Partial
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.views import find_views, is_view_folder
from geodm_lightning.exchange.views_out import export_views
from geodm_lightning.types import DatasetSpec, InputError

IMAGES, LABELS = "images", "labels"


def is_fkd(path: Path) -> bool:
    """Whether ``path`` holds pictures in class folders and a folder of FKD labels."""
    return path.is_dir() and find_views(path) is not None and _pictures(path) is not None


def read_fkd(path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign:
    """Read the pictures, and find the labels beside them or where ``views`` says."""
    views = declared.views or find_views(path)
    if views is None or not is_view_folder(views):
        raise InputError(f"{views or path} has no epoch_0/batch_0.tar; name their folder by views=")
    pictures = _pictures(path)
    if pictures is None:
        raise InputError(f"{path} has no folder per class with PNG or JPEG files")
    foreign = read_class_folders(pictures, spec, declared._replace(views=None))
    warnings = foreign.warnings
    if declared.seed == Declaration().seed:
        warnings = (*warnings, f"inferred fkd_seed={declared.seed}, the default of the scripts")
    return foreign._replace(views=views, warnings=warnings)


def write_fkd(
    target: Path, distilled: DistilledSet, spec: DatasetSpec, views: Path, *, seed: int
) -> Path:
    """Write ``images/CLASS/*.png`` and ``labels/epoch_E/batch_B.tar``."""
    with Partial(target) as folder:
        write_class_folders(folder / IMAGES, distilled, spec)
        export_views(views, folder / LABELS, distilled, seed=seed)
    return target


def _pictures(path: Path) -> Path | None:
    children = sorted(entry for entry in path.iterdir() if entry.is_dir())
    return next((entry for entry in [path, *children] if is_class_folders(entry)), None)
