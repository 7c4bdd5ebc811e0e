"""Formats of pictures in one folder per class: SRe2L, RDED, Minimax, IGD and their heirs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.folders import Partial
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.pictures import SUFFIXES, read_picture, to_bytes, write_picture
from geodm_lightning.types import DatasetSpec, InputError

NUMBERED = re.compile(r"(?:new)?(\d+)")  # new017 of SRe2L, 00017 of RDED
WORDNET = re.compile(r"n\d{8}")


class ClassFolders(NamedTuple):
    """Files of a set, in the order of torchvision's ImageFolder.

    Attributes:
        paths: N files, sorted by folder and name.
        folders: Name of the folder of each file.
        ignored: Other files found beside them.
    """

    paths: tuple[Path, ...]
    folders: tuple[str, ...]
    ignored: tuple[Path, ...]


def is_class_folders(path: Path) -> bool:
    """Whether ``path`` has sub-folders with pictures in them."""
    return path.is_dir() and any(
        entry.suffix.lower() in SUFFIXES
        for child in path.iterdir()
        if child.is_dir()
        for entry in child.iterdir()
    )


def scan(root: Path) -> ClassFolders:
    """List the pictures below each sub-folder of ``root``; folders without any are left out."""
    found: list[tuple[str, Path]] = []
    ignored: list[Path] = []
    for child in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        if child.name.startswith("."):
            continue
        files = sorted(entry for entry in child.rglob("*") if not entry.is_dir())
        pictures = [entry for entry in files if entry.suffix.lower() in SUFFIXES]
        if pictures:
            ignored += [entry for entry in files if entry not in set(pictures)]
        found += [(child.name, entry) for entry in pictures]
    if not found:
        raise InputError(f"{root} has no folder per class with PNG or JPEG files")
    return ClassFolders(
        tuple(entry for _, entry in found), tuple(name for name, _ in found), tuple(ignored)
    )


def read_class_folders(path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign:
    """Read pictures; the class of each is that of its folder.

    Raises:
        InputError: If a picture cannot be read, sizes are mixed, or folders do not name the
            classes of the data set.
    """
    files = scan(path)
    classes, warnings = class_of_folders(files.folders, spec, declared)
    if files.ignored:
        name, number = files.ignored[0].name, len(files.ignored)
        warnings = (*warnings, f"left out {number} files that are no PNG or JPEG, such as {name}")
    labels = torch.tensor([classes[name] for name in files.folders])
    images = stack_pictures(files.paths, root=path, channels=spec.channels)
    return Foreign(images, labels, files.paths, space="uint8", in_our_order=True, warnings=warnings)


def stack_pictures(paths: Sequence[Path], *, root: Path, channels: int) -> Tensor:
    """Read pictures of one size as ``(N, channels, h, w)`` uint8.

    Raises:
        InputError: If one cannot be read or is of another size than the first.
    """
    first = read_picture(paths[0], root=root, channels=channels)
    images = torch.empty(len(paths), *first.shape, dtype=torch.uint8)
    for index, path in enumerate(paths):
        picture = read_picture(path, root=root, channels=channels)
        if picture.shape != first.shape:
            raise InputError(
                f"images are of mixed shapes: {paths[0].name} of {_size(first)} and "
                f"{path.name} of {_size(picture)} pixels; bring them to one size"
            )
        images[index] = picture
    return images


def class_of_folders(
    folders: Sequence[str], spec: DatasetSpec, declared: Declaration
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Tell which class each folder holds.

    Declared order first; then numbers (``new017``, ``00017``), names or WordNet folders of the
    data set; the sorted order of the folders as a last resort, with a warning.

    Args:
        folders: Folder names, repeated as one likes.
        spec: The data set.
        declared: What the caller says.

    Returns:
        Class index by folder, and warnings.

    Raises:
        InputError: If they do not name each class of the data set once.
    """
    names = sorted(set(folders))
    if declared.order is not None:
        return _ordered(names, declared.order, spec), ()
    for known in (spec.class_names, tuple(IMAGENET_SUBSETS.get(spec.name, ()))):
        if known and set(names) <= set(known):
            return {name: known.index(name) for name in names}, ()
    if all(NUMBERED.fullmatch(name) for name in names):
        classes = {name: int(name.removeprefix("new")) for name in names}
        return _complete(classes, spec), _numbered(spec)
    are_wordnet = all(WORDNET.fullmatch(name) for name in names)
    if spec.num_classes not in (0, len(names)) or (are_wordnet and spec.name in IMAGENET_SUBSETS):
        raise InputError(
            f"{len(names)} class folders, such as {names[0]}, are not the {spec.num_classes} "
            f"classes of {spec.name}; use data=NAME of their data set or order=FOLDER,FOLDER,…"
        )
    warning = (
        f"inferred order: folder names are not {spec.name}'s class names, taken as sorted "
        f"({names[0]} is class 0)"
    )
    return {name: index for index, name in enumerate(names)}, (warning,)


def write_class_folders(target: Path, distilled: DistilledSet, spec: DatasetSpec) -> Path:
    """Write ``CLASS/classCCCCC_idIIIII.png``, mosaics cut, pixels rounded to 8 bits.

    Folders of an ImageNet subset are named by WordNet as Minimax and IGD do, others by number as
    RDED does.
    """
    decoded = distilled.decode()
    pixels, _ = to_bytes(decoded.images)
    wordnet = tuple(IMAGENET_SUBSETS.get(spec.name, ()))
    position = [0] * spec.num_classes
    with Partial(target) as folder:
        for image, label in zip(pixels, decoded.labels.tolist(), strict=True):
            place = folder / (wordnet[label] if wordnet else f"{label:05d}")
            place.mkdir(exist_ok=True)
            write_picture(place / f"class{label:05d}_id{position[label]:05d}.png", image)
            position[label] += 1
    return target


def _ordered(names: list[str], order: tuple[str, ...], spec: DatasetSpec) -> dict[str, int]:
    """Classes of folders where ``order`` lists folders in label order."""
    missing = [name for name in names if name not in order]
    if missing or len(set(order)) != len(order) or len(order) != spec.num_classes:
        problem = f"lacks {missing[0]}" if missing else f"lists {len(order)}"
        raise InputError(
            f"order= {problem}; list the folder of each of the {spec.num_classes} classes of "
            f"{spec.name} once, in label order"
        )
    return {name: order.index(name) for name in names}


def _complete(classes: dict[str, int], spec: DatasetSpec) -> dict[str, int]:
    outside = [name for name, index in classes.items() if index >= spec.num_classes]
    if outside and spec.num_classes:
        raise InputError(
            f"folder {outside[0]} is of class {classes[outside[0]]}, {spec.name} has "
            f"{spec.num_classes}; use data=NAME of their data set or order=FOLDER,FOLDER,…"
        )
    return classes


def _numbered(spec: DatasetSpec) -> tuple[str, ...]:
    if spec.name not in IMAGENET_SUBSETS:
        return ()
    return (f"inferred order: folder numbers are those of {spec.name}'s sorted WordNet folders",)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}×{image.shape[1]}"
