"""Building once whatever may be refused, so that a mistake is told before any work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from geodm_lightning.assembly.distiller import check_calibration
from geodm_lightning.assembly.matching import build_matching
from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.assembly.protocol import build_protocol
from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec


def check_buildable(
    settings: dict[str, Any], spec: DatasetSpec, *, rows: Iterable[dict[str, Any]] | None = None
) -> None:
    """Build every part of a run that a setting may make impossible.

    Args:
        settings: Settings of the run; what all rows of its table share is built once.
        spec: Data set of the run.
        rows: Settings of the rows that learn images; those of the run alone when omitted.

    Raises:
        InputError: For the first part that cannot be built.
    """
    build_protocol(settings, spec)
    generator = keyed_generator(settings["seed"], "check")
    network_builder(settings["evaluation"]["student"], spec)(generator)
    for row in [settings] if rows is None else rows:
        check_row(row, spec)


def check_row(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Build what a row of the table may have of its own.

    Raises:
        InputError: For the first part that cannot be built.
    """
    options = settings["distiller"]
    augmentation_for(spec, **options["augmentation"])
    shape = (spec.num_classes, 1, spec.channels, spec.resolution, spec.resolution)
    SyntheticImages(torch.zeros(shape), spec=spec, space=options["space"], factor=options["factor"])
    build_matching(settings, spec)
    check_calibration(settings)
