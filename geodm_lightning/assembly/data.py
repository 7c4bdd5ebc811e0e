"""From settings to real images."""

from __future__ import annotations

from typing import Any

import torch

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.types import InputError

DRY_RUN_IMAGES = 64  # real images per class a dry run looks at


def build_data(settings: dict[str, Any], device: torch.device) -> RealDataModule:
    """Load the real images, small sets onto ``device``.

    Raises:
        InputError: If the data set is unknown, missing or damaged, or a class has fewer
            images than ``ipc``, where that is known yet.
    """
    data = RealDataModule(**settings["data"])
    data.prepare_data()
    data.setup()
    if settings["dry_run"]:
        needed = (settings["ipc"] or 1) * (settings["distiller"]["factor"] or 1) ** 2
        data.train = data.train.head(max(DRY_RUN_IMAGES, needed))
        data.test = data.test.head(DRY_RUN_IMAGES)
    data.train.to(device)
    data.test.to(device)
    if settings["ipc"] is not None:
        check_images_per_class(data, settings["ipc"])
    return data


def check_images_per_class(data: RealDataModule, ipc: int) -> None:
    """Check that every class has as many training images as are kept of it.

    Raises:
        InputError: If a class has fewer.
    """
    smallest = int(data.train.class_counts.min())
    if ipc > smallest:
        name = data.spec.class_names[int(data.train.class_counts.argmin())]
        raise InputError(
            f"ipc={ipc} is more than the {smallest} training images of class "
            f"'{name}' of {data.spec.name}; use ipc={smallest} or less"
        )
