"""Image folders: which file belongs to which class of which split."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.types import DatasetSpec, InputError

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp"}
TEST_FOLDERS = ("val", "validation", "test")
ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet as published: file, class, box
IMAGENET_FOLDERS = ("imagenet1k", "imagenet", "ILSVRC2012")
SPREAD_NAMES = {
    "tiny_imagenet": ("tiny-imagenet-200", "tiny-imagenet"),
    "imagenette": ("imagenette2", "imagenette2-320", "imagenette2-160"),
    "imagewoof": ("imagewoof2", "imagewoof2-320", "imagewoof2-160"),
    "imagenet1k": IMAGENET_FOLDERS,
}


class LabelledPaths(NamedTuple):
    """Image files with their class indices.

    Attributes:
        paths: N files.
        labels: ``(N,)`` int64 class indices, in the order of ``paths``.
    """

    paths: tuple[Path, ...]
    labels: Tensor


class FolderSplits(NamedTuple):
    """Both splits of an image-folder data set.

    Attributes:
        class_folders: Folder name of every class, in label order.
        train: Files of the training split.
        test: Files of the test split.
    """

    class_folders: tuple[str, ...]
    train: LabelledPaths
    test: LabelledPaths


def scan_folders(spec: DatasetSpec, root: Path) -> FolderSplits:
    """List the files of an image-folder data set.

    Accepted layouts are ``train/CLASS/**`` with ``val/CLASS/**`` (or ``validation``, ``test``),
    and Tiny-ImageNet as published, whose ``val/val_annotations.txt`` gives the classes of
    ``val/images``. The classes of an ImageNet subset are those of the literature, so ``root``
    may be the whole of ImageNet; other data sets take the sorted folders of ``train``.

    Args:
        spec: A catalog entry that :func:`~geodm_lightning.data.sources.is_in_memory` denies.
        root: The data set's folder, or the folder it lies in.

    Returns:
        Class folders and labelled files, sorted by class and name.

    Raises:
        InputError: If a split or class folder is missing or empty, or the class count is wrong.
    """
    folder = _find_folder(spec, root)
    train = _files_of(folder / "train")
    class_folders = tuple(IMAGENET_SUBSETS.get(spec.name, sorted(train)))
    if spec.num_classes not in (0, len(class_folders)):
        raise _refusal(
            spec, f"{folder / 'train'} has {len(class_folders)} class folders, not the data set's"
        )
    split = next((name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if split is None:
        raise _refusal(spec, f"{folder} has no folder {' or '.join(TEST_FOLDERS)}")
    if (folder / split / ANNOTATIONS).is_file():
        test = _files_by_annotation(spec, folder / split)
    else:
        test = _files_of(folder / split)
    return FolderSplits(
        class_folders,
        _label(spec, class_folders, train, folder / "train"),
        _label(spec, class_folders, test, folder / split),
    )


def _refusal(spec: DatasetSpec, problem: str) -> InputError:
    classes = f"{spec.num_classes} class folders" if spec.num_classes else "one folder per class"
    return InputError(
        f"{spec.name}: {problem}; expected PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG with "
        f"{classes}; set data.root=PATH (there is no automatic download)"
    )


def _find_folder(spec: DatasetSpec, root: Path) -> Path:
    names = [spec.name, *SPREAD_NAMES.get(spec.name, ())]
    if spec.name in IMAGENET_SUBSETS:
        names += IMAGENET_FOLDERS
    candidates = list(dict.fromkeys([root, *(root / name for name in names)]))
    needed = IMAGENET_SUBSETS.get(spec.name, {})
    missing: list[str] = []
    for candidate in candidates:
        if (candidate / "train").is_dir():
            missing = [name for name in needed if not (candidate / "train" / name).is_dir()]
            if not missing:
                return candidate
    if missing:
        raise _refusal(spec, f"no class folder {missing[0]} in a train folder under {root}")
    looked_at = " or ".join(str(candidate / "train") for candidate in candidates)
    raise _refusal(spec, f"not found: looked for {looked_at}")


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """Image files below each sub-folder, sorted by name."""
    return {
        child.name: sorted(p for p in child.rglob("*") if p.suffix.lower() in SUFFIXES)
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".")
    }


def _files_by_annotation(spec: DatasetSpec, folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    for line in lines:
        name, label, *_ = [*line.split("\t"), ""]
        path = folder / "images" / name
        if not path.is_file():
            raise _refusal(spec, f"{folder / ANNOTATIONS} names {path}, which does not exist")
        files.setdefault(label, []).append(path)
    return {label: sorted(paths) for label, paths in files.items()}


def _label(
    spec: DatasetSpec, class_folders: tuple[str, ...], files: dict[str, list[Path]], where: Path
) -> LabelledPaths:
    empty = [name for name in class_folders if not files.get(name)]
    if empty or not class_folders:
        raise _refusal(spec, f"no images of class {', '.join(empty[:1]) or '(any)'} in {where}")
    counts = torch.tensor([len(files[name]) for name in class_folders])
    paths = tuple(path for name in class_folders for path in files[name])
    return LabelledPaths(paths, torch.arange(len(class_folders)).repeat_interleave(counts))
