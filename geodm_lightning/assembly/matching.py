"""From settings to the loss: strategy, geometry, transport, history."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch

from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.assembly.options import instantiate
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.coupling import OptimalTransport
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.matching.history import PrototypeHistory
from geodm_lightning.matching.sampler import FrequencySampler
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, InputError


def build_matching(settings: dict[str, Any], spec: DatasetSpec) -> GeometricMatching:
    """Build the loss in the configured geometry.

    Raises:
        InputError: If a factor is unknown, a curvature, weight or epsilon is out of range, or
            parts do not go together.
    """
    options = settings["matching"]
    num_features = width_of_features(json.dumps(settings["network"]), spec)
    geometry = instantiate(
        {**settings["geometry"], "num_features": num_features, "seed": settings["seed"]}
    )
    matching = GeometricMatching(
        base=build_base(settings, geometry, num_features),
        geometry=geometry,
        transport=build_transport(settings, geometry),
        history=PrototypeHistory(**options["history"]) if options["history"] else None,
        transport_weight=options["transport_weight"],
        curvature_weight=options["curvature_weight"],
        entropy_weight=options["entropy_weight"],
    )
    check_enough_images(settings, matching)
    return matching


@cache
def width_of_features(network: str, spec: DatasetSpec) -> int:
    """Return the length of a feature vector of a network, which is built to know it, once.

    Args:
        network: Configured network as JSON.
        spec: Data set it looks at.

    Raises:
        InputError: If the network cannot be built.
    """
    return network_builder(json.loads(network), spec)(torch.Generator()).num_features


def build_base(settings: dict[str, Any], geometry: ProductManifold, num_features: int) -> Any:
    """Build the strategy, with a sampler of its frequencies where one is configured."""
    options = settings["matching"]
    if not options["sampler"]:
        base = instantiate(options["base"])
        if isinstance(base, OptimalTransport):
            base.transport.check(geometry)
        return base
    if not options["base"]["_target_"].endswith(".CharacteristicMatching"):
        raise InputError(
            f"matching.sampler learns frequencies, {options['label']} has none; use "
            "strategy=ncfm_sampler or matching.sampler=null"
        )
    widths = [block.shape[-1] for block in geometry.embed(torch.zeros(1, num_features))]
    generator = keyed_generator(settings["seed"], "sampler")
    sampler = FrequencySampler(widths, generator=generator)
    return instantiate({**options["base"], "_partial_": True})(sampler=sampler)


def build_transport(
    settings: dict[str, Any], geometry: ProductManifold
) -> TransportMatching | None:
    """Build the transport term, None at weight zero.

    Raises:
        InputError: If it cannot work on a factor of the geometry.
    """
    if settings["matching"]["transport_weight"] == 0:
        return None
    transport: TransportMatching = instantiate(settings["transport"])
    transport.check(geometry)
    return transport


def check_enough_images(settings: dict[str, Any], matching: GeometricMatching) -> None:
    """Refuse a strategy that needs more synthetic images per class than there are.

    Raises:
        InputError: Naming both numbers and the way out.
    """
    ipc, factor = settings["ipc"], settings["distiller"]["factor"]
    needed = matching.base.min_synthetic
    if ipc * factor**2 < needed:
        raise InputError(
            f"{settings['matching']['label']} needs at least {needed} synthetic images per class "
            f"to estimate a covariance; ipc={ipc} with distiller.factor={factor} gives "
            f"{ipc * factor**2}: use distiller.factor=2 (multi-formation) or ipc={needed}"
        )
