"""What a foreign file holds, before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

NOTHING: Mapping[str, float] = MappingProxyType({})


class Foreign(NamedTuple):
    """Tensors as a file holds them, with what its format says of them.

    Attributes:
        images: ``(N, ch, h, w)`` of any dtype, in the space and order of the file.
        labels: ``(N,)`` class indices or ``(N, K)`` soft labels; None where the format orders
            the images class by class instead.
        files: What was read, for the hashes in the manifest.
        space: Pixel space, where the format fixes it.
        factor: Tiles per side as published where the format knows mosaics, None where not.
        soft_labels: ``(N, K)`` beside class indices, None without.
        learned: Numbers that came with the set, such as the learning rate ``lr``.
        order: Class names or folders in the order of the labels, where the format fixes it.
        in_our_order: Whether the reader numbered the classes as the data set does.
        warnings: What the reader inferred.
        views: Folder of FKD labels.
    """

    images: Tensor
    labels: Tensor | None
    files: tuple[Path, ...]
    space: str | None = None
    factor: int | None = None
    soft_labels: Tensor | None = None
    learned: Mapping[str, float] = NOTHING
    order: tuple[str, ...] | None = None
    in_our_order: bool = False
    warnings: tuple[str, ...] = ()
    views: Path | None = None
