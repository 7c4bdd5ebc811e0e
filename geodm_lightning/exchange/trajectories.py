"""Formats of separate tensor files: MTT and its heirs; DATM with soft labels and a rate."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.folders import Partial
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.safe import load_torch
from geodm_lightning.exchange.spaces import from_unit, normalised_as
from geodm_lightning.exchange.tensor_files import (
    ANY,
    as_number,
    as_tensor,
    in_their_order,
    save_torch,
    theirs,
)
from geodm_lightning.exchange.whitening import Whitening
from geodm_lightning.types import DatasetSpec, InputError

IMAGES, LABELS, RATE = "images_", "labels_", "lr_"
UNWHITENED = "images_zca_"  # MTT's images with the whitening undone: unit range
BEST = "best"


def is_trajectory(path: Path) -> bool:
    """Whether ``path`` is a folder or an image file of MTT, DATM or one of their heirs."""
    if path.is_dir():
        return any(path.glob(f"{IMAGES}*.pt"))
    return path.name.startswith(IMAGES) and path.suffix == ".pt"


def has_rate(path: Path) -> bool:
    """Whether a learned rate lies beside the images, as DATM keeps it."""
    images = _images_file(path)
    return (images.parent / f"{RATE}{_version(images)}.pt").is_file()


def read_trajectory(path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign:
    """Read ``images_V.pt`` with ``labels_V.pt`` and, if there is one, ``lr_V.pt``.

    A folder's ``best`` is taken, or else its last iteration. MTT keeps whitened images twice: as
    they are and, in ``images_zca_V.pt``, with the whitening undone, which is what is taken.

    Raises:
        InputError: If files are missing, hold no tensors, or are whitened without their matrix.
    """
    images, skipped = _without_whitening(_images_file(path), path, declared)
    labels = images.parent / f"{LABELS}{_version(images)}.pt"
    if not labels.is_file():
        raise InputError(f"{images} has no {labels.name} beside it; fetch the labels too")
    rate = images.parent / f"{RATE}{_version(images)}.pt"
    files = (images, labels, *([rate] if rate.is_file() else []))
    warnings = skipped
    if path.is_dir() and not skipped:
        found = ", ".join(sorted(entry.name for entry in path.glob(f"{IMAGES}*.pt")))
        if "," in found:
            warnings.append(f"took {images.name} of {found}; give one file to choose")
    values = as_tensor(load_torch(labels), "labels", labels)
    if values.ndim == 2 and not rate.is_file():
        warnings.append(f"no {rate.name}: DATM and TESLA train at the rate they learned")
    return Foreign(
        as_tensor(load_torch(images), "images", images),
        values,
        files,
        space="unit" if images.name.startswith(UNWHITENED) else None,
        learned={"lr": as_number(load_torch(rate), "the rate", rate)} if rate.is_file() else {},
        order=theirs(spec),
        warnings=tuple(warnings),
    )


def write_trajectory(
    target: Path, distilled: DistilledSet, spec: DatasetSpec, whitening: Whitening | None
) -> Path:
    """Write a folder of ``images_best.pt``, ``labels_best.pt`` and a learned rate's ``lr_best.pt``.

    Pixels are normalised, or whitened where a whitening is given; mosaics are cut. Soft labels
    take the place of class indices, as DATM keeps them.
    """
    decoded = in_their_order(distilled.decode(), spec)
    unit = decoded.unit_images()
    whitened = from_unit(unit, normalised_as(spec, "mtt", ANY))
    images = whitened if whitening is None else whitening.apply(unit)
    soft, rate = decoded.soft_labels, decoded.manifest.get("learned", {}).get("lr")
    with Partial(target) as folder:
        save_torch(folder / f"{IMAGES}{BEST}.pt", images)
        save_torch(folder / f"{LABELS}{BEST}.pt", decoded.labels if soft is None else soft)
        if rate is not None:
            save_torch(folder / f"{RATE}{BEST}.pt", Tensor([rate])[0])
    return target


def _images_file(path: Path) -> Path:
    if path.is_file():
        return path
    best = path / f"{IMAGES}{BEST}.pt"
    if best.is_file():
        return best
    numbered = [entry for entry in path.glob(f"{IMAGES}*.pt") if _version(entry).isdigit()]
    plain = [entry for entry in numbered if not entry.name.startswith(UNWHITENED)]
    if not numbered:
        raise InputError(f"{path} has no {IMAGES}{BEST}.pt nor {IMAGES}NUMBER.pt")
    return max(plain or numbered, key=lambda entry: int(_version(entry)))


def _without_whitening(images: Path, path: Path, declared: Declaration) -> tuple[Path, list[str]]:
    """Return the file with the whitening undone where there is one and nothing else is declared."""
    twin = images.with_name(f"{UNWHITENED}{_version(images)}.pt")
    if twin in (images, path) or not twin.is_file():
        return images, []
    if declared.zca is not None or declared.space is not None:
        return images, []
    if not path.is_dir():
        raise InputError(
            f"{images} is whitened, as {twin.name} beside it tells; give that one, or zca=FILE"
        )
    return twin, [f"took {twin.name}: {images.name} beside it is the same, whitened"]


def _version(images: Path) -> str:
    return images.stem.removeprefix(UNWHITENED).removeprefix(IMAGES)
