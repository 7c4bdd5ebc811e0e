"""A distilled set out, in the format of any loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.class_folders import write_class_folders
from geodm_lightning.exchange.declaration import FKD_SEED
from geodm_lightning.exchange.fkd import write_fkd
from geodm_lightning.exchange.formats import FORMATS
from geodm_lightning.exchange.image_folder import CARD, write_image_folder
from geodm_lightning.exchange.native import write_native
from geodm_lightning.exchange.pictures import to_bytes
from geodm_lightning.exchange.spaces import share_outside
from geodm_lightning.exchange.tensor_files import write_dc, write_ddranking, write_idc, write_idm
from geodm_lightning.exchange.trajectories import write_trajectory
from geodm_lightning.exchange.whitening import load_whitening
from geodm_lightning.types import DatasetSpec, InputError

HARD_ONLY = ("dc", "idc", "idm", "images", "fkd")  # formats that have no place for soft labels

IN_BYTES = ("images", "fkd", "hf")
WITH_MOSAICS = ("native", "idc", "idm")
WRITTEN = (".safetensors", ".json", ".jsonl", ".pt", ".tar", ".png", ".jpg", ".jpeg")
WITH_RATE = ("native", "mtt", "datm", "ddranking")


def write_set(
    target: Path,
    distilled: DistilledSet,
    *,
    format: str,
    overwrite: bool = False,
    zca: Path | None = None,
    views: Path | None = None,
    seed: int = FKD_SEED,
    results: str = "",
) -> Path:
    """Write a set as the loader of another project reads it, images class by class.

    Read back, ``native``, ``idc`` and 8-bit pictures are the same bit for bit; normalised pixels
    of unit range (``dc``, ``idm``, ``mtt``, ``datm``, ``ddranking``) come back within 2⁻²³,
    whitened ones within float32 rounding times the condition of the matrix. ``images`` and ``hf``
    keep 8 bits: float pixels of unit range move by up to half a grey level, 1/510, others are
    clipped. Formats without mosaics get them cut. :func:`losses` tells what a format loses.

    Args:
        target: File or folder to make.
        distilled: The set.
        format: A key of :data:`~geodm_lightning.exchange.formats.FORMATS`.
        overwrite: Whether something at ``target`` may be replaced.
        zca: Whitening of the pixels in ``mtt`` and ``datm``, None to normalise them.
        views: Folder of given views or a label store, for ``fkd``.
        seed: Of the sampler of an ``fkd`` loader.
        results: Markdown of what students reached, for the card of ``hf``.

    Returns:
        ``target``.

    Raises:
        InputError: If the format is unknown or cannot hold the set, something is there already,
            or it cannot be written.
    """
    _check(target, distilled, format, overwrite=overwrite, zca=zca, views=views)
    spec, ordered = spec_of(distilled), class_by_class(distilled)
    if format == "native":
        return write_native(target, distilled)
    if format in ("mtt", "datm"):
        whitening = None if zca is None else load_whitening(zca)
        return write_trajectory(target, ordered, spec, whitening)
    if format == "hf":
        return write_image_folder(target, ordered, spec, results=results)
    if format == "fkd" and views is not None:
        return write_fkd(target, ordered, spec, views, seed=seed)
    writers = {
        "dc": write_dc,
        "idc": write_idc,
        "idm": write_idm,
        "ddranking": write_ddranking,
        "images": write_class_folders,
    }
    return writers[format](target, ordered, spec)


def _check(
    target: Path,
    distilled: DistilledSet,
    format: str,
    *,
    overwrite: bool,
    zca: Path | None,
    views: Path | None,
) -> None:
    """Refuse what cannot be written, before anything is."""
    if format not in FORMATS:
        raise InputError(f"unknown format {format}; choose one of {', '.join(FORMATS)}")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another place or overwrite=true")
    if target.exists() and target.is_dir() != FORMATS[format].is_folder:
        kind = "folder" if FORMATS[format].is_folder else "file"
        raise InputError(f"{target} is not a {kind}, which {format} is; choose another place")
    if target.is_dir():
        _check_replaceable(target)
    if zca is not None and format not in ("mtt", "datm"):
        raise InputError(f"only mtt and datm are whitened, leave out zca= for {format}")
    if distilled.soft_labels is not None and format in HARD_ONLY:
        raise InputError(
            f"{format} has no place for the soft labels of this set; export it as datm, "
            "ddranking, hf or native"
        )
    if format == "fkd" and views is None:
        raise InputError("fkd needs views=FOLDER: views that came with a set, or a run's labels")


def _check_replaceable(target: Path) -> None:
    """Refuse to replace a folder with anything in it that no format writes."""
    for path in target.rglob("*"):
        if not path.is_dir() and path.suffix.lower() not in WRITTEN and path.name != CARD:
            raise InputError(
                f"{target} holds {path.relative_to(target)}, so it is more than a distilled set: "
                "overwrite=true would delete it; choose another place"
            )


def losses(distilled: DistilledSet, format: str) -> tuple[str, ...]:
    """Return what of a set is lost or changed in a format, one line each."""
    lost = []
    if format in IN_BYTES and distilled.images.dtype != torch.uint8:
        _, moved = to_bytes(distilled.images)
        outside = share_outside(distilled.images)
        clipped = f", {outside:.0%} of them clipped to unit range"
        lost.append(
            f"{format} keeps 8 bits: pixels moved by up to {moved:.2g} of unit range"
            f"{clipped if outside else ''}"
        )
    factor = int(distilled.manifest.get("factor", 1))
    if factor > 1 and format not in WITH_MOSAICS:
        lost.append(f"{format} knows no mosaics: each is cut into {factor**2} images")
    if distilled.manifest.get("learned") and format not in WITH_RATE:
        lost.append(f"{format} has no place for the learned rate")
    return tuple(lost)


def spec_of(distilled: DistilledSet) -> DatasetSpec:
    """Return the data set that a set says it was made from."""
    dataset = distilled.manifest["dataset"]
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in dataset.items()
    }
    return DatasetSpec(**fields)


def class_by_class(distilled: DistilledSet) -> DistilledSet:
    """Return the set with its images listed class by class, otherwise in their order."""
    order = distilled.labels.sort(stable=True).indices
    soft = distilled.soft_labels
    return distilled._replace(
        images=distilled.images[order],
        labels=distilled.labels[order],
        soft_labels=None if soft is None else soft[order],
    )
