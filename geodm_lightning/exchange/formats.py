"""Every format by name, and which of them a path is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from geodm_lightning.exchange.class_folders import is_class_folders, read_class_folders
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.fkd import is_fkd, read_fkd
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.image_folder import is_image_folder, read_image_folder
from geodm_lightning.exchange.native import is_native
from geodm_lightning.exchange.safe import load_torch
from geodm_lightning.exchange.tensor_files import (
    IMAGE_TENSOR,
    read_dc,
    read_ddranking,
    read_idc,
    read_idm,
)
from geodm_lightning.exchange.trajectories import has_rate, is_trajectory, read_trajectory
from geodm_lightning.types import DatasetSpec, InputError

Read = Callable[[Path, DatasetSpec, Declaration], Foreign]


class Format(NamedTuple):
    """A way to keep a distilled set.

    Attributes:
        projects: Whose it is.
        read: Reads it; None for the framework's own.
        is_folder: Whether it is a folder, not one file.
    """

    projects: str
    read: Read | None
    is_folder: bool


FORMATS: dict[str, Format] = {
    "native": Format("this framework", None, is_folder=True),
    "dc": Format("DC, DSA, DM, HDD, DataDAM: res_*.pt", read_dc, is_folder=False),
    "idc": Format("IDC, M3D, DANCE, DSDM, NCFM: data.pt", read_idc, is_folder=False),
    "idm": Format("IDM: acc_*.pkl", read_idm, is_folder=False),
    "mtt": Format(
        "MTT, FTD, GLaD: images_best.pt, labels_best.pt", read_trajectory, is_folder=True
    ),
    "datm": Format("DATM, TESLA, EDF: the same with lr_best.pt", read_trajectory, is_folder=True),
    "images": Format(
        "a folder per class: RDED, SRe2L, Minimax, IGD", read_class_folders, is_folder=True
    ),
    "fkd": Format("the same with FKD labels: SRe2L, CDA, EDC", read_fkd, is_folder=True),
    "hf": Format("Hugging Face datasets: metadata.jsonl", read_image_folder, is_folder=True),
    "ddranking": Format("DD-Ranking's arguments", read_ddranking, is_folder=False),
}
OF_TORCH: dict[str, Callable[[Path, DatasetSpec, Declaration, Any], Foreign]] = {
    "dc": read_dc,
    "idc": read_idc,
    "ddranking": read_ddranking,
}


class Found(NamedTuple):
    """The format a set is in.

    Attributes:
        name: Key of :data:`FORMATS`.
        content: What its file holds, where that had to be loaded to tell; else None.
    """

    name: str
    content: Any = None

    def read(self, path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign | None:
        """Return what is there, None for a native set; what is loaded is not loaded again."""
        if self.content is not None:
            return OF_TORCH[self.name](path, spec, declared, self.content)
        read = FORMATS[self.name].read
        return None if read is None else read(path, spec, declared)


def settled_format(path: Path, declared: str | None) -> Found:
    """Return the format that a set is read in: the declared one, or that of its files.

    Raises:
        InputError: If nothing is there, the declared format is unknown, or the files are of none.
    """
    if not path.exists():
        raise InputError(f"there is no distilled set at {path}; correct the path")
    if declared is not None and declared not in FORMATS:
        raise InputError(f"unknown format={declared}; choose one of {', '.join(FORMATS)}")
    return recognised(path) if declared is None else Found(declared)


def format_of(path: Path) -> str:
    """Return the name of the format that a file or folder is in; see :func:`recognised`."""
    return recognised(path).name


def recognised(path: Path) -> Found:
    """Return the format that a file or folder is in, by its structure.

    Raises:
        InputError: If it is of none, or cannot be read safely.
    """
    if is_native(path):
        return Found("native")
    if is_trajectory(path):
        return Found("datm" if has_rate(path) else "mtt")
    if path.is_dir():
        folders = {"hf": is_image_folder, "fkd": is_fkd, "images": is_class_folders}
        for name, recognises in folders.items():
            if recognises(path):
                return Found(name)
        raise _unknown(path, "a folder without manifest.json, images_*.pt or class folders")
    if path.suffix in (".pkl", ".pickle"):
        return Found("idm")
    content = load_torch(path)
    if isinstance(content, dict) and "data" in content:
        return Found("dc", content)
    if isinstance(content, dict) and IMAGE_TENSOR in content:
        return Found("ddranking", content)
    if isinstance(content, (list, tuple)) and len(content) == 2:
        return Found("idc", content)
    kind = f"keys {sorted(map(str, content))[:5]}" if isinstance(content, dict) else "no pair"
    raise _unknown(path, f"a file of torch.save with {kind}")


def _unknown(path: Path, what: str) -> InputError:
    return InputError(f"{path} is {what}: no format known here ({', '.join(FORMATS)})")
