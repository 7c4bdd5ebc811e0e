"""From settings to networks: fresh ones, trained ones, pools of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from geodm_lightning.assembly.options import capped, network_options
from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distillers.pretrain import PretrainSettings, State, pretrained_states
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pool import NetworkBuilder, NetworkPool, RandomPool, TrainedPool
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec


def network_builder(network: dict[str, Any], spec: DatasetSpec) -> NetworkBuilder:
    """Return a function that builds the configured network from a generator."""
    options = network_options(network)

    def build(generator: torch.Generator) -> Network:
        return build_network(
            network["name"],
            num_classes=spec.num_classes,
            channels=spec.channels,
            resolution=spec.resolution,
            generator=generator,
            **options,
        )

    return build


def channels_together(build: NetworkBuilder) -> NetworkBuilder:
    """Return a function that builds the same networks with the channels of a pixel together.

    Convolutions hand the layout of their weights on to their maps, and weights that are drawn anew
    in place keep it.
    """

    def built(generator: torch.Generator) -> Network:
        return build(generator).to(memory_format=torch.channels_last)

    return built


def pretrain_settings(settings: dict[str, Any], *, for_herding: bool) -> PretrainSettings:
    """Return how networks are trained on real images, for the pool or for herding."""
    pool = settings["pool"]
    return PretrainSettings(
        epochs=pool["herding_epochs"] if for_herding else pool["epochs"],
        max_steps=settings["schedule"]["max_pretrain_steps"],
        **{key: pool[key] for key in ("batch_size", "lr", "momentum", "weight_decay")},
    )


def trained_states(
    settings: dict[str, Any], data: RealDataModule, site: Site, *, for_herding: bool
) -> tuple[list[State], list[State]]:
    """Return initial and final states of networks trained on real images."""
    pool = settings["pool"]
    augmentation = {"strategy": pool["augmentation"], "mode": "one"}
    identity = {
        "data": data.spec._asdict(),
        "network": settings["network"],
        "augmentation": augmentation,
        "cutmix_probability": pool["cutmix_probability"],
    }
    return pretrained_states(
        data.train,
        network_builder(settings["network"], data.spec),
        count=1 if for_herding else capped(pool["count"], settings["schedule"]["max_networks"]),
        settings=pretrain_settings(settings, for_herding=for_herding),
        augmentation=augmentation_for(data.spec, **augmentation),
        cutmix_probability=pool["cutmix_probability"],
        folder=Path(settings["cache_dir"]),
        identity=identity,
        seed=settings["seed"],
        site=site,
    )


def build_pool(settings: dict[str, Any], data: RealDataModule, site: Site) -> NetworkPool:
    """Build the pool of matching networks, training them first where they must be trained."""
    build = network_builder(settings["network"], data.spec)
    if site.channels_last:
        build = channels_together(build)
    if settings["pool"]["kind"] == "random":
        return RandomPool(build, settings["seed"], hold=settings["pool"]["hold"]).to(site.device)
    initial, final = trained_states(settings, data, site, for_herding=False)
    interpolate = settings["pool"]["interpolate"]
    pool = TrainedPool(initial, final, build, settings["seed"], interpolate=interpolate)
    return pool.to(site.device)


def herding_network(settings: dict[str, Any], data: RealDataModule, site: Site) -> Network:
    """Return a network trained on the real images, in eval mode, for herding."""
    _, final = trained_states(settings, data, site, for_herding=True)
    generator = keyed_generator(settings["seed"], "herding")
    network = network_builder(settings["network"], data.spec)(generator)
    network.load_state_dict(final[0])
    return network.to(site.device).eval()
