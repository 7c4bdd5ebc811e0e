"""From settings to a diffusion model and an autoencoder that are trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule
from torch import nn

from geodm_lightning.assembly.options import capped
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.diffusion.autoencoder import (
    AutoencoderSettings,
    AutoencoderTraining,
    build_autoencoder,
)
from geodm_lightning.diffusion.codec import Codec
from geodm_lightning.diffusion.training import (
    DenoiserSettings,
    DenoiserTraining,
    build_transformer,
)
from geodm_lightning.distillers.diffusion_training import trained_model
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import TrainingProgress
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec

MODEL_SEED = 0  # models are shared by the seeds of a run, as published ones are


def trained_transformer(
    settings: dict[str, Any], data: RealDataModule, site: Site, codec: Codec
) -> Path:
    """Train a small diffusion transformer on the real images, unless that was done before.

    Args:
        settings: Settings of the run.
        data: Real images.
        site: Where to compute.
        codec: Makes latents of the images.

    Returns:
        Its folder.
    """
    batch_size, recipe = recipe_of(settings, "transformer")
    denoiser = DenoiserSettings(**recipe)

    def build() -> DenoiserTraining:
        transformer = fresh_transformer(settings, data.spec, codec)
        return DenoiserTraining(transformer, codec, settings=denoiser, seed=MODEL_SEED)

    return trained_part(
        settings,
        data,
        site,
        part="transformer",
        title="train the diffusion model",
        build=build,
        result=lambda module: cast(DenoiserTraining, module).average,
        num_steps=denoiser.num_steps,
        batch_size=batch_size,
        identity={"recipe": denoiser._asdict(), "codec": codec.identity()},
    )


def trained_autoencoder(settings: dict[str, Any], data: RealDataModule, site: Site) -> Path:
    """Train a small autoencoder on the real images, unless that was done before.

    Returns:
        Its folder.
    """
    batch_size, recipe = recipe_of(settings, "autoencoder")
    autoencoder = AutoencoderSettings(**recipe)

    def build() -> AutoencoderTraining:
        fresh = fresh_autoencoder(settings, data.spec)
        return AutoencoderTraining(fresh, settings=autoencoder, seed=MODEL_SEED)

    return trained_part(
        settings,
        data,
        site,
        part="autoencoder",
        title="train the autoencoder",
        build=build,
        result=lambda module: cast(AutoencoderTraining, module).autoencoder,
        num_steps=autoencoder.num_steps,
        batch_size=batch_size,
        identity={"recipe": autoencoder._asdict()},
    )


def recipe_of(settings: dict[str, Any], part: str) -> tuple[int, dict[str, Any]]:
    """Return the images of a step, and all else of a training, under the schedule's cap."""
    recipe = dict(settings["generator"]["training"][part]["recipe"])
    recipe["num_steps"] = capped(recipe["num_steps"], settings["schedule"]["max_generator_steps"])
    return recipe.pop("batch_size"), recipe


def trained_part(
    settings: dict[str, Any],
    data: RealDataModule,
    site: Site,
    *,
    part: str,
    title: str,
    build: Callable[[], LightningModule],
    result: Callable[[LightningModule], nn.Module],
    num_steps: int,
    batch_size: int,
    identity: dict[str, Any],
) -> Path:
    """Train a part of the generator on the real images, unless that was done before."""
    return trained_model(
        build,
        result,
        table=data.train,
        folder=Path(settings["cache_dir"]) / "diffusion",
        identity={
            "model": part,
            "data": data.spec._asdict(),
            "images": len(data.train),
            "architecture": settings["generator"]["training"][part]["architecture"],
            **identity,
        },
        num_steps=num_steps,
        batch_size=batch_size,
        resolution=data.spec.resolution,
        seed=MODEL_SEED,
        site=site,
        callbacks=lambda first: [TrainingProgress(title, num_steps=num_steps, first_step=first)],
    )


def fresh_transformer(settings: dict[str, Any], spec: DatasetSpec, codec: Codec) -> nn.Module:
    """Build the diffusion transformer to be trained.

    Raises:
        InputError: If its sizes do not fit each other or the latents.
    """
    return build_transformer(
        codec.latent_shape(spec.resolution),
        spec.num_classes,
        **settings["generator"]["training"]["transformer"]["architecture"],
        generator=keyed_generator(MODEL_SEED, "transformer"),
    )


def fresh_autoencoder(settings: dict[str, Any], spec: DatasetSpec) -> nn.Module:
    """Build the autoencoder to be trained.

    Raises:
        InputError: If its sizes do not fit each other.
    """
    options = dict(settings["generator"]["training"]["autoencoder"]["architecture"])
    return build_autoencoder(
        spec.channels,
        widths=tuple(options.pop("widths")),
        **options,
        generator=keyed_generator(MODEL_SEED, "autoencoder"),
    )
