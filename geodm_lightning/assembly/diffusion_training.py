"""From settings to a diffusion model and an autoencoder that are trained here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Callback
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
    options = settings["generator"]["training"]["transformer"]
    architecture, recipe = options["architecture"], dict(options["recipe"])
    batch_size = recipe.pop("batch_size")
    num_steps = capped(recipe.pop("num_steps"), settings["schedule"]["max_generator_steps"])
    denoiser = DenoiserSettings(num_steps=num_steps, **recipe)

    def build() -> DenoiserTraining:
        transformer = fresh_transformer(settings, data.spec, codec)
        return DenoiserTraining(transformer, codec, settings=denoiser, seed=MODEL_SEED)

    identity = {
        "model": "transformer",
        "data": data.spec._asdict(),
        "images": len(data.train),
        "architecture": architecture,
        "recipe": denoiser._asdict(),
        "codec": codec.identity(),
    }
    return trained_model(
        build,
        lambda module: cast(DenoiserTraining, module).average,
        table=data.train,
        folder=Path(settings["cache_dir"]) / "diffusion",
        identity=identity,
        num_steps=num_steps,
        batch_size=batch_size,
        resolution=data.spec.resolution,
        seed=MODEL_SEED,
        site=site,
        callbacks=progress("train the diffusion model", num_steps),
    )


def trained_autoencoder(settings: dict[str, Any], data: RealDataModule, site: Site) -> Path:
    """Train a small autoencoder on the real images, unless that was done before.

    Returns:
        Its folder.
    """
    options = settings["generator"]["training"]["autoencoder"]
    architecture, recipe = options["architecture"], dict(options["recipe"])
    batch_size = recipe.pop("batch_size")
    num_steps = capped(recipe.pop("num_steps"), settings["schedule"]["max_generator_steps"])
    autoencoder = AutoencoderSettings(num_steps=num_steps, **recipe)

    def build() -> AutoencoderTraining:
        fresh = fresh_autoencoder(settings, data.spec)
        return AutoencoderTraining(fresh, settings=autoencoder, seed=MODEL_SEED)

    return trained_model(
        build,
        lambda module: cast(AutoencoderTraining, module).autoencoder,
        table=data.train,
        folder=Path(settings["cache_dir"]) / "diffusion",
        identity={
            "model": "autoencoder",
            "data": data.spec._asdict(),
            "images": len(data.train),
            "architecture": architecture,
            "recipe": autoencoder._asdict(),
        },
        num_steps=num_steps,
        batch_size=batch_size,
        resolution=data.spec.resolution,
        seed=MODEL_SEED,
        site=site,
        callbacks=progress("train the autoencoder", num_steps),
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


def progress(title: str, num_steps: int) -> Callable[[int], Sequence[Callback]]:
    """Return a function from the first step to the callbacks that show how far a training is."""
    return lambda first: [TrainingProgress(title, num_steps=num_steps, first_step=first)]
