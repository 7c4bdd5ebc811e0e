"""Small data sets read whole into memory as 8-bit tensors: digits, MNISTs, SVHN, CIFARs."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from torchvision import datasets

from geodm_lightning.data.idx import read_idx
from geodm_lightning.types import DatasetSpec, InputError, LabelledImages

DIGITS = Path(__file__).with_name("digits.npz")
DIGITS_MAX_VALUE = 16

IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
CIFARS: dict[str, Any] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


class PixelSplits(NamedTuple):
    """Both splits of a data set in memory.

    Attributes:
        train: uint8 images ``(N, ch, h, w)`` and labels ``(N,)``.
        test: The same for the test split.
        max_value: Pixel value that means 1.0 in unit range.
    """

    train: LabelledImages
    test: LabelledImages
    max_value: int = 255


def load_pixels(spec: DatasetSpec, root: Path) -> PixelSplits:
    """Read both splits of a small data set.

    Args:
        spec: A catalog entry for which :func:`is_in_memory` holds.
        root: Folder of all data sets, laid out as torchvision lays it out.

    Returns:
        Images, labels and the pixel range.

    Raises:
        InputError: If files are missing, damaged or of the wrong shape.
    """
    splits = _READERS[spec.name](spec, root)
    for split, (images, labels) in (("train", splits.train), ("test", splits.test)):
        expected = (spec.channels, spec.resolution, spec.resolution)
        if tuple(images.shape[1:]) != expected or len(images) != len(labels):
            raise InputError(
                f"{spec.name}: the {split} split under {root} holds images of shape "
                f"{tuple(images.shape)} with {len(labels)} labels, expected (N, "
                f"{', '.join(map(str, expected))}) with N labels; {_way_out(spec.name)}"
            )
        present = torch.bincount(labels, minlength=spec.num_classes)
        if len(present) > spec.num_classes or (present == 0).any():
            raise InputError(
                f"{spec.name}: the labels of the {split} split under {root} are not the classes "
                f"0 to {spec.num_classes - 1}; {_way_out(spec.name)}"
            )
    return splits


def is_in_memory(name: str) -> bool:
    """Tell whether a data set is read by :func:`load_pixels` rather than from image folders."""
    return name in _READERS


def download_pixels(name: str, root: Path) -> None:
    """Fetch a small data set with torchvision where it is not there yet.

    Args:
        name: A catalog name; ``digits`` comes with the package and needs nothing.
        root: Folder of all data sets.

    Raises:
        InputError: If the download fails.
    """
    try:
        if name in IDX_FOLDERS:
            getattr(datasets, IDX_FOLDERS[name])(root, download=True)
        elif name in CIFARS and _cifar_folder(name, root) is None:
            CIFARS[name](root, download=True)
        elif name == "svhn" and _svhn_folder(root) is None:
            for split in ("train", "test"):
                datasets.SVHN(root, split=split, download=True)
    except (URLError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(": ") if str(error) else type(error).__name__
        raise InputError(
            f"{name}: cannot download into {root}: {reason}; set data.root=PATH to a folder that "
            f"has it"
        ) from error


def _way_out(name: str) -> str:
    return f"delete it and set data.download=true, or set data.root=PATH (data set {name})"


def _missing(name: str, *, looked_at: Sequence[Path], files: Sequence[str]) -> InputError:
    return InputError(
        f"{name}: not found in {' or '.join(map(str, looked_at))}; expected there "
        f"{', '.join(files)}; set data.root=PATH or data.download=true"
    )


def _find(folders: Sequence[Path], files: Sequence[str]) -> Path | None:
    complete = (folder for folder in folders if all((folder / file).is_file() for file in files))
    return next(complete, None)


def _read_digits(spec: DatasetSpec, root: Path) -> PixelSplits:
    """Read the digits that come with the package: 8×8 pixels, 1797 of them, their split fixed.

    References:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (CC BY 4.0).
    """
    with np.load(DIGITS) as stored:
        images = torch.from_numpy(stored["images"])[:, None]
        labels = torch.from_numpy(stored["labels"]).long()
        parts = [torch.from_numpy(stored[name].astype(np.int64)) for name in ("train", "test")]
    train, test = (LabelledImages(images[part], labels[part]) for part in parts)
    return PixelSplits(train, test, DIGITS_MAX_VALUE)


def _read_idx_pairs(spec: DatasetSpec, root: Path) -> PixelSplits:
    folder = root / IDX_FOLDERS[spec.name] / "raw"
    files = [
        f"{split}-{content}-ubyte"
        for split in ("train", "t10k")
        for content in ("images-idx3", "labels-idx1")
    ]
    if _find([folder], files) is None:
        raise _missing(spec.name, looked_at=[folder], files=files)
    tensors = []
    for file in files:
        try:
            tensors.append(read_idx(folder / file))
        except (ValueError, OSError) as error:
            reason = f"{spec.name}: {folder / file} {error}; {_way_out(spec.name)}"
            raise InputError(reason) from error
    train, test = (
        LabelledImages(images[:, None], labels.flatten().long())
        for images, labels in (tensors[:2], tensors[2:])
    )
    return PixelSplits(train, test)


def _cifar_files(name: str) -> dict[str, str]:
    return dict(CIFARS[name].train_list + CIFARS[name].test_list)


def _cifar_folders(name: str, root: Path) -> list[Path]:
    base = CIFARS[name].base_folder
    return [root / base, root / name.upper() / base]


def _cifar_folder(name: str, root: Path) -> Path | None:
    return _find(_cifar_folders(name, root), list(_cifar_files(name)))


def _verified(name: str, path: Path, md5: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{name}: cannot read {path}: {error.strerror}; {_way_out(name)}"
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(
            f"{name}: {path} is damaged (its MD5 is not the published one); {_way_out(name)}"
        )
    return content


def _read_cifar(spec: DatasetSpec, root: Path) -> PixelSplits:
    checksums = _cifar_files(spec.name)
    folder = _cifar_folder(spec.name, root)
    if folder is None:
        looked_at = _cifar_folders(spec.name, root)
        raise _missing(spec.name, looked_at=looked_at, files=list(checksums))

    def read(files: list[list[str]]) -> LabelledImages:
        # The bytes are unpickled only after their checksum proves them to be the published ones.
        batches = [
            pickle.loads(_verified(spec.name, folder / file, md5), encoding="latin1")
            for file, md5 in files
        ]
        images = torch.cat([torch.from_numpy(batch["data"]) for batch in batches])
        labels = [label for b in batches for label in b.get("labels", b.get("fine_labels"))]
        return LabelledImages(images.reshape(-1, 3, 32, 32), torch.tensor(labels))

    family = CIFARS[spec.name]
    return PixelSplits(read(family.train_list), read(family.test_list))


def _svhn_folder(root: Path) -> Path | None:
    return _find([root, root / "SVHN"], ["train_32x32.mat", "test_32x32.mat"])


def _read_svhn(spec: DatasetSpec, root: Path) -> PixelSplits:
    folder = _svhn_folder(root)
    if folder is None:
        files = ["train_32x32.mat", "test_32x32.mat"]
        raise _missing(spec.name, looked_at=[root, root / "SVHN"], files=files)

    def read(split: str) -> LabelledImages:
        _, file, md5 = datasets.SVHN.split_list[split]
        _verified(spec.name, folder / file, md5)
        source = datasets.SVHN(folder, split=split)
        return LabelledImages(torch.from_numpy(source.data), torch.from_numpy(source.labels))

    return PixelSplits(read("train"), read("test"))


_READERS: dict[str, Callable[[DatasetSpec, Path], PixelSplits]] = {
    "digits": _read_digits,
    "mnist": _read_idx_pairs,
    "fashion_mnist": _read_idx_pairs,
    "svhn": _read_svhn,
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
}
