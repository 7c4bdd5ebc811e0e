"""Where a class stands among the thousand of ImageNet-1K."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from geodm_lightning.types import InputError


def imagenet_labels(folders: Sequence[str]) -> list[int]:
    """Return the ImageNet-1K label of classes given by their WordNet folder.

    Models of ImageNet-1K, generators and teachers alike, list its classes in the order of
    their folders; a subset has to be looked up in it.

    Args:
        folders: WordNet folders in the label order of a data set, such as ``n01440764``.

    Returns:
        One label from 0 to 999 for each, in the same order.

    Raises:
        InputError: If a folder is none of ImageNet-1K's.

    Example:
        >>> imagenet_labels(["n01440764", "n02102040"])  # tench, English springer
        [0, 217]
    """
    known = _labels_by_folder()
    for folder in folders:
        if folder not in known:
            raise InputError(
                f"class {folder!r} is no WordNet folder of ImageNet-1K; list the labels of the "
                "classes in the model's own table, generator.class_labels=[...] or "
                "teachers.classes=[...]"
            )
    return [known[folder] for folder in folders]


@cache
def _labels_by_folder() -> dict[str, int]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(label): label for label in range(info.num_classes())}
