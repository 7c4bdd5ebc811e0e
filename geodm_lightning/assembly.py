"""From settings to objects: the one place that knows both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from hydra.errors import InstantiationException

from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distillers.matching import MatchingDistiller, StepSizes
from geodm_lightning.distillers.pretrain import PretrainSettings, State, pretrained_states
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.synthetic import SyntheticImages, initial_images
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pool import NetworkPool, RandomPool, TrainedPool
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec, InputError

DRY_RUN_IMAGES = 64  # real images per class a dry run looks at


def instantiate(config: dict[str, Any]) -> Any:
    """Build the object a configuration names by ``_target_``.

    Raises:
        InputError: As the object's constructor raised it.
    """
    try:
        return hydra.utils.instantiate(config, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def build_data(settings: dict[str, Any], device: torch.device) -> RealDataModule:
    """Load the real images, small sets onto ``device``.

    Raises:
        InputError: If the data set is unknown, missing or damaged, or a class has fewer
            images than ``ipc``.
    """
    data = RealDataModule(**settings["data"])
    data.prepare_data()
    data.setup()
    if settings["dry_run"]:
        needed = settings["ipc"] * settings["distiller"]["factor"] ** 2
        data.train = data.train.head(max(DRY_RUN_IMAGES, needed))
        data.test = data.test.head(DRY_RUN_IMAGES)
    data.train.to(device)
    data.test.to(device)
    smallest = int(data.train.class_counts.min())
    if settings["ipc"] > smallest:
        name = data.spec.class_names[int(data.train.class_counts.argmin())]
        raise InputError(
            f"ipc={settings['ipc']} is more than the {smallest} training images of class "
            f"'{name}' of {data.spec.name}; use ipc={smallest} or less"
        )
    return data


def network_builder(
    network: dict[str, Any], spec: DatasetSpec
) -> Callable[[torch.Generator], Network]:
    """Return a function that builds the configured network from a generator."""
    options = {k: v for k, v in network.items() if k != "name" and v is not None}

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


def build_matching(settings: dict[str, Any]) -> GeometricMatching:
    """Build the loss in the configured geometry.

    Raises:
        InputError: If a factor is unknown or a curvature, weight or epsilon is out of range.
    """
    matching = settings["matching"]
    with_transport = matching["transport_weight"] > 0
    return GeometricMatching(
        base=instantiate(matching["base"]),
        geometry=instantiate(settings["geometry"]),
        transport=instantiate(settings["transport"]) if with_transport else None,
        transport_weight=matching["transport_weight"],
        curvature_weight=matching["curvature_weight"],
        entropy_weight=matching["entropy_weight"],
    )


def num_iterations(settings: dict[str, Any]) -> int:
    """Return the iterations of this run: the published number under the schedule's cap."""
    return _capped(settings["distiller"]["num_iterations"], settings["schedule"]["max_iterations"])


def build_protocol(settings: dict[str, Any], spec: DatasetSpec) -> Protocol:
    """Build the protocol under the schedule's caps, fitted to the data set."""
    evaluation, schedule = settings["evaluation"], settings["schedule"]
    student = {k: v for k, v in evaluation["student"].items() if v is not None}
    protocol = Protocol(
        **evaluation["protocol"],
        network=student.pop("name"),
        network_options=student,
        num_students=_capped(evaluation["num_students"], schedule["max_students"]),
    )
    if schedule["max_student_epochs"] is not None:
        protocol = protocol.shortened(schedule["max_student_epochs"])
    return replace(protocol, whole_steps=_capped(protocol.whole_steps, schedule["max_whole_steps"]))


def _capped(published: int, cap: int | None) -> int:
    return published if cap is None else min(published, cap)


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
        count=1 if for_herding else pool["count"],
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
    if settings["pool"]["kind"] == "random":
        return RandomPool(build, settings["seed"]).to(site.device)
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


def sharing_key(settings: dict[str, Any]) -> str:
    """Return what decides the real features of an iteration; equal keys may share them."""
    options = settings["distiller"]
    shared = (
        settings["seed"],
        settings["data"],
        settings["network"],
        settings["pool"],
        options["augmentation"],
        options["classes_per_step"],
        real_batch(settings),
    )
    return json.dumps(shared, sort_keys=True)


def real_batch(settings: dict[str, Any]) -> int:
    """Return the real images per class of an iteration, under the schedule's cap."""
    return _capped(settings["distiller"]["real_batch"], settings["schedule"]["max_real_batch"])


def build_real_features(settings: dict[str, Any], data: RealDataModule, site: Site) -> RealFeatures:
    """Build the source of real features, with its networks trained where they must be."""
    return RealFeatures(
        data.train,
        build_pool(settings, data, site),
        augmentation_for(data.spec, **settings["distiller"]["augmentation"]),
        real_batch=real_batch(settings),
        seed=settings["seed"],
    )


def build_distiller(
    settings: dict[str, Any], data: RealDataModule, site: Site, real: RealFeatures
) -> MatchingDistiller:
    """Build the module that learns the images, on the device of ``site``."""
    options, spec = settings["distiller"], data.spec
    scheduler = options["image_scheduler"]
    initial = initial_images(
        data.train,
        ipc=settings["ipc"],
        factor=options["factor"],
        initialisation=options["initialisation"],
        classes=site.processes.shard(spec.num_classes),
        generator=keyed_generator(settings["seed"], "initial"),
    )
    return MatchingDistiller(
        SyntheticImages(initial, spec=spec, space=options["space"], factor=options["factor"]),
        build_matching(settings).to(site.device),
        real=real,
        image_optimizer=instantiate(options["image_optimizer"]),
        geometry_optimizer=instantiate(options["geometry_optimizer"]),
        image_scheduler=scheduler and instantiate(scheduler),
        sizes=StepSizes(
            classes_per_step=options["classes_per_step"], log_every=options["log_every"]
        ),
        processes=site.processes,
    )


def check_buildable(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Build once whatever may be refused, so that a mistake is told before any work.

    Raises:
        InputError: For the first part that cannot be built.
    """
    options = settings["distiller"]
    build_protocol(settings, spec)
    build_matching(settings)
    augmentation_for(spec, **options["augmentation"])
    generator = keyed_generator(settings["seed"], "check")
    for network in (settings["network"], settings["evaluation"]["student"]):
        network_builder(network, spec)(generator)
    shape = (spec.num_classes, 1, spec.channels, spec.resolution, spec.resolution)
    SyntheticImages(torch.zeros(shape), spec=spec, space=options["space"], factor=options["factor"])
