"""Building once whatever may be refused, so that a mistake is told before any work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from geodm_lightning.assembly.diffusion_training import fresh_autoencoder, fresh_transformer
from geodm_lightning.assembly.distiller import check_calibration
from geodm_lightning.assembly.generator import (
    TRAINED,
    build_denoiser,
    build_sampler,
    class_labels,
    fitting_codec,
)
from geodm_lightning.assembly.guides import ground_cost, surrogate_settings, transport_guidance
from geodm_lightning.assembly.matching import build_matching
from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.assembly.protocol import build_architectures, build_protocol
from geodm_lightning.assembly.teachers import load_published, wanted_teachers
from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.diffusion.codec import AutoencoderCodec, PixelCodec
from geodm_lightning.diffusion.weights import load_autoencoder, load_transformer
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.evaluation.views import input_spec, view_recipe
from geodm_lightning.guidance.deviation import DeviationGuidance
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
    generator = keyed_generator(settings["seed"], "check")
    for architecture in build_architectures(settings, spec):
        protocol = architecture.protocol
        network = {"name": protocol.network, **protocol.network_options}
        network_builder(network, input_spec(protocol, spec))(generator)
    check_teachers(settings, spec)
    samples = settings["distiller"].get("kind") == "guided_diffusion"
    if samples:
        check_generator(settings, spec)
    for row in [settings] if rows is None else rows:
        if samples:
            check_guidance(row, spec)
        else:
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


def check_teachers(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Load the teachers that are loaded, build those to be trained, and the views they label.

    Raises:
        InputError: If weights are missing, classes do not match or nothing can be labelled.
    """
    wanted = wanted_teachers(settings)
    if not wanted:
        return
    protocol = build_protocol(settings, spec)
    view_recipe(protocol, spec)
    for index in range(max(wanted.values())):
        entry = settings["teachers"]["pool"][index]
        if entry["source"] == "trained":
            network = {key: value for key, value in entry.items() if key != "source"}
            generator = keyed_generator(settings["seed"], "check")
            network_builder(network, input_spec(protocol, spec))(generator)
        else:
            load_published(settings, spec, entry)


def check_generator(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Load the diffusion model that is loaded, or build the one to be trained, and its guidance.

    Raises:
        InputError: If weights are missing, or model, autoencoder and classes do not fit.
    """
    options = settings["generator"]
    codec = None
    if options["autoencoder"] is not None:
        trained = options["autoencoder"] == TRAINED
        codec = AutoencoderCodec(
            fresh_autoencoder(settings, spec)
            if trained
            else load_autoencoder(options["autoencoder"])
        )
    if options["transformer"] == TRAINED:
        pixels = PixelCodec(spec.resolution, channels=spec.channels)
        transformer = fresh_transformer(settings, spec, codec or pixels)
    else:
        transformer = load_transformer(options["transformer"])
    denoiser = build_denoiser(options, transformer, precision="32-true")
    build_sampler(options, denoiser)
    fitting_codec(codec, denoiser, spec)
    class_labels(options["class_labels"], spec, denoiser.num_classes)


def check_guidance(settings: dict[str, Any], spec: DatasetSpec) -> None:
    """Build the guidance of a row for samples of one pixel.

    Raises:
        InputError: If a number is out of range or the geometry cannot be built.
    """
    options, real = settings["guidance"], torch.zeros(1, 1, 1, 1, 1)
    if options["transport"] is not None:
        transport_guidance(options["transport"], real, ground_cost(settings, real.device))
    if options["deviation"] is not None:
        DeviationGuidance(**options["deviation"])
    if options["influence"] is not None:
        surrogate_settings(settings).steps(1)
        generator = keyed_generator(settings["seed"], "check")
        network_builder(options["influence"]["network"], spec)(generator)
