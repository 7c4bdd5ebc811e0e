"""From settings to the module that learns the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geodm_lightning.assembly.matching import build_matching
from geodm_lightning.assembly.networks import build_pool, pretrain_settings
from geodm_lightning.assembly.options import instantiate, num_iterations, real_batch
from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distillers.calibration import Calibration
from geodm_lightning.distillers.fitting import FittingSettings, fitted_geometry
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.recipe import Optimizers, StepSizes
from geodm_lightning.distillers.replay import replayed
from geodm_lightning.distillers.synthetic import SyntheticImages, initial_images
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.networks.compiled import compiled, embedded
from geodm_lightning.networks.pool import TrainedPool
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError


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
        num_iterations(settings),
    )
    return json.dumps(shared, sort_keys=True)


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
    initial = initial_images(
        data.train,
        ipc=settings["ipc"],
        factor=options["factor"],
        initialisation=options["initialisation"],
        classes=site.processes.shard(spec.num_classes),
        generator=keyed_generator(settings["seed"], "initial"),
    )
    matching = build_matching(settings, spec).to(site.device)
    if matching.history is not None and site.processes.world_size > spec.num_classes:
        raise InputError(
            f"a history is kept class by class, and {spec.num_classes} classes cannot be divided "
            f"over {site.processes.world_size} processes; use trainer.devices={spec.num_classes}"
        )
    if matching.geometry.learning == "from_real":
        fit_to_real(matching.geometry, settings, real, site)
    return MatchingDistiller(
        SyntheticImages(initial, spec=spec, space=options["space"], factor=options["factor"]),
        matching,
        real=real,
        optimizers=build_optimizers(settings),
        calibration=build_calibration(settings, real),
        sizes=StepSizes(
            num_iterations=num_iterations(settings),
            classes_per_step=options["classes_per_step"],
            log_every=options["log_every"],
        ),
        processes=site.processes,
        embed=compiled(embedded, site.device) if site.compiles else embedded,
        replay=replayed(matching, site.device) if site.replays else None,
    )


def fit_to_real(
    geometry: ProductManifold, settings: dict[str, Any], real: RealFeatures, site: Site
) -> None:
    """Fit a geometry on real features in the networks of the run, and hold it from now on."""
    identity = {key: settings[key] for key in ("geometry", "network", "pool")}
    trained = settings["pool"]["kind"] == "trained"
    fitted_geometry(
        geometry,
        table=real.table,
        pool=real.pool,
        augmentation=real.augmentation,
        settings=FittingSettings(
            num_steps=min(FittingSettings().num_steps, num_iterations(settings)),
            real_batch=real.real_batch,
            classes_per_step=settings["distiller"]["classes_per_step"],
        ),
        folder=Path(settings["cache_dir"]),
        identity={
            **identity,
            **site.identity,
            "pretraining": trained and pretrain_settings(settings, for_herding=False)._asdict(),
            "data": real.table.spec._asdict(),
            "augmentation": settings["distiller"]["augmentation"],
        },
        seed=settings["seed"],
        processes=site.processes,
    )


def build_optimizers(settings: dict[str, Any]) -> Optimizers:
    """Return the factories of the optimisers and of the schedule of the pixels' rate."""
    options, sampler = settings["distiller"], settings["matching"]["sampler"]
    return Optimizers(
        images=instantiate(options["image_optimizer"]),
        geometry=instantiate(options["geometry_optimizer"]),
        sampler=instantiate(sampler["optimizer"]) if sampler else None,
        scheduler=instantiate(options["image_scheduler"]) if options["image_scheduler"] else None,
    )


def build_calibration(settings: dict[str, Any], real: RealFeatures) -> Calibration | None:
    """Build the cross-entropy calibration, None at weight zero.

    Raises:
        InputError: If the pool has no trained networks to calibrate with.
    """
    weight = settings["distiller"]["calibration_weight"]
    if weight == 0:
        return None
    check_calibration(settings)
    assert isinstance(real.pool, TrainedPool)
    return Calibration(real.pool, weight=weight)


def check_calibration(settings: dict[str, Any]) -> None:
    """Refuse a calibration for which there are no trained networks.

    Raises:
        InputError: Naming the two settings.
    """
    weight, kind = settings["distiller"]["calibration_weight"], settings["pool"]["kind"]
    if weight > 0 and kind != "trained":
        raise InputError(
            f"distiller.calibration_weight={weight:g} needs networks trained on real images, but "
            f"pool.kind={kind}; use pool=trained or distiller.calibration_weight=0"
        )
