"""From settings to a diffusion model and what makes images of its samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.assembly.diffusion_training import trained_autoencoder, trained_transformer
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.diffusion.codec import AutoencoderCodec, Codec, PixelCodec
from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.diffusion.weights import identity_of, load_autoencoder, load_transformer
from geodm_lightning.networks.imagenet import imagenet_labels
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec, InputError

# What decides a sample beside the model, its noise and guidance.
SAMPLING = ("sampler", "num_steps", "guidance_scale", "guided_channels", "class_labels")
TRAINED = "trained"  # instead of a name or folder: trained here, on the data set


class Generator(NamedTuple):
    """A diffusion model ready to be sampled.

    Attributes:
        sampler: Denoises from noise.
        codec: Makes images of its samples.
        labels: ``(C,)`` the model's label of every class of the data set.
        resolution: Height and width in pixels of the images the model was trained on.
        identity: What decides its samples besides noise and guidance.
    """

    sampler: Sampler
    codec: Codec
    labels: Tensor
    resolution: int
    identity: dict[str, Any]


def build_generator(settings: dict[str, Any], data: RealDataModule, site: Site) -> Generator:
    """Load the diffusion model, or train it first where the settings say so.

    Raises:
        InputError: If weights are missing or damaged, or model, autoencoder and data set do not
            fit each other.
    """
    options, spec, precision = settings["generator"], data.spec, site.precision
    codec: AutoencoderCodec | None = None
    if options["autoencoder"] is not None:
        source = options["autoencoder"]
        if source == TRAINED:
            source = trained_autoencoder(settings, data, site)
        codec = AutoencoderCodec(load_autoencoder(source).to(site.device), precision=precision)
    source = options["transformer"]
    if source == TRAINED:
        pixels = PixelCodec(spec.resolution, channels=spec.channels)
        source = trained_transformer(settings, data, site, codec or pixels)
    transformer = load_transformer(source)
    denoiser = build_denoiser(options, transformer.to(site.device), precision=precision)
    fitted, resolution = fitting_codec(codec, denoiser, spec)
    return Generator(
        sampler=build_sampler(options, denoiser),
        codec=fitted,
        labels=class_labels(options["class_labels"], spec, denoiser.num_classes),
        resolution=resolution,
        identity={
            "transformer": identity_of(transformer),
            "autoencoder": fitted.identity(),
            **{key: options[key] for key in SAMPLING},
        },
    )


def build_denoiser(options: dict[str, Any], transformer: nn.Module, *, precision: str) -> Denoiser:
    """Put classifier-free guidance around a transformer, as the ``generator`` settings say."""
    return Denoiser(
        transformer,
        guidance_scale=options["guidance_scale"],
        guided_channels=options["guided_channels"],
        precision=precision,
        checkpointing=options["checkpointing"],
    )


def build_sampler(options: dict[str, Any], denoiser: Denoiser) -> Sampler:
    """Build the sampler that the ``generator`` settings describe."""
    return Sampler(denoiser, num_steps=options["num_steps"], kind=options["sampler"])


def fitting_codec(
    codec: AutoencoderCodec | None, denoiser: Denoiser, spec: DatasetSpec
) -> tuple[Codec, int]:
    """Return what makes images of a model's samples, and their pixels per side.

    Raises:
        InputError: If the samples are neither latents of the autoencoder nor, without one,
            images, or the images are not of the data set's channels.
    """
    channels, side, _ = denoiser.latent_shape
    if codec is None:
        if channels != spec.channels:
            raise InputError(
                f"the diffusion model makes images of {channels} channels, {spec.name} has "
                f"{spec.channels}; name its autoencoder with generator.autoencoder=PATH, or "
                "another model"
            )
        return PixelCodec(side, channels=channels), side
    if codec.autoencoder.config.in_channels != spec.channels:
        raise InputError(
            f"the autoencoder takes images of {codec.autoencoder.config.in_channels} channels, "
            f"{spec.name} has {spec.channels}; name another with generator.autoencoder=PATH"
        )
    resolution = side * 2 ** (len(codec.autoencoder.config.block_out_channels) - 1)
    if codec.latent_shape(resolution) != denoiser.latent_shape:
        raise InputError(
            f"the diffusion model makes latents of shape {denoiser.latent_shape}, the autoencoder "
            f"takes {codec.latent_shape(resolution)}; name the autoencoder it was trained with"
        )
    return codec, resolution


def class_labels(wanted: str | list[int] | None, spec: DatasetSpec, num_labels: int) -> Tensor:
    """Return the label ``(C,)`` of every class of a data set in the model's table.

    Args:
        wanted: The labels, ``"imagenet"`` to look them up by WordNet folder, or None where class
            ``i`` is label ``i``.
        spec: The data set.
        num_labels: Classes of the model.

    Raises:
        InputError: If the counts do not match or a label is not in the table.
    """
    if wanted is None:
        if spec.num_classes != num_labels:
            raise InputError(
                f"the diffusion model knows {num_labels} classes, {spec.name} has "
                f"{spec.num_classes}; say which is which with generator.class_labels=[...], or "
                "name another model"
            )
        return torch.arange(num_labels)
    if isinstance(wanted, str) and wanted != "imagenet":
        raise InputError(
            f"unknown generator.class_labels {wanted!r}; choose imagenet, null or a list of labels"
        )
    labels = imagenet_of(spec) if isinstance(wanted, str) else list(wanted)
    if not all(type(label) is int for label in labels):
        raise InputError(f"generator.class_labels must be whole numbers, got {labels}")
    if len(labels) != spec.num_classes or len(set(labels)) != len(labels):
        raise InputError(
            f"generator.class_labels lists {len(set(labels))} different labels, {spec.name} has "
            f"{spec.num_classes} classes; list one for each"
        )
    unknown = [label for label in labels if not 0 <= label < num_labels]
    if unknown:
        raise InputError(
            f"generator.class_labels holds {unknown[0]}, the diffusion model knows labels 0 to "
            f"{num_labels - 1}; name a model that knows the classes of {spec.name}"
        )
    return torch.tensor(labels)


def imagenet_of(spec: DatasetSpec) -> list[int]:
    """Return the ImageNet-1K labels of a data set whose classes are ImageNet's."""
    return imagenet_labels(list(IMAGENET_SUBSETS.get(spec.name, spec.class_names)))
