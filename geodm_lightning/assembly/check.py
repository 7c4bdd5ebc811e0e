"""Building once whatever may be refused, so that a mistake is told before any work."""

from __future__ import annotations

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


def check_buildable(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Build every part of a row that a setting may make impossible.

    Raises:
        InputError: For the first part that cannot be built.
    """
    options = settings["distiller"]
    build_protocol(settings, spec)
    augmentation_for(spec, **options["augmentation"])
    generator = keyed_generator(settings["seed"], "check")
    for network in (settings["network"], settings["evaluation"]["student"]):
        network_builder(network, spec)(generator)
    shape = (spec.num_classes, 1, spec.channels, spec.resolution, spec.resolution)
    SyntheticImages(torch.zeros(shape), spec=spec, space=options["space"], factor=options["factor"])
    build_matching(settings, spec)
    check_calibration(settings)
