"""From settings to what pushes the samples of a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.assembly.generator import Generator
from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.assembly.options import instantiate
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.normalise import normalise
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.distillers.generation import CumulativeGuidance, Guides
from geodm_lightning.distillers.real_latents import encode_real, resized
from geodm_lightning.distillers.surrogates import SurrogateSettings, trained_surrogates
from geodm_lightning.files import name_of
from geodm_lightning.guidance.combined import CombinedGuidance
from geodm_lightning.guidance.deviation import DeviationGuidance
from geodm_lightning.guidance.ground import AbsoluteGround, GroundCost, ProductGround
from geodm_lightning.guidance.guidance import Guidance
from geodm_lightning.guidance.influence import InfluenceGuidance, class_gradients
from geodm_lightning.guidance.transport import TransportGuidance
from geodm_lightning.networks.network import Network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site

GRADIENT_BATCH = 50  # images of a class at once; decides memory only
IGD_LATENT = 4096  # numbers of the latents that the published scales of deviation are for
CACHE_SEED = 0  # real latents and surrogates are shared by the seeds of a run


def build_guides(
    settings: dict[str, Any], generator: Generator, data: RealDataModule, site: Site
) -> Guides | None:
    """Build what makes the guidance of any classes; None where nothing pushes.

    Real latents are encoded and surrogates trained here, once for all rows and seeds.

    Raises:
        InputError: If a part cannot be built, or a cache is damaged or was made otherwise.
    """
    options = settings["guidance"]
    makers: list[Callable[[Tensor], Guidance]] = []
    if options["transport"] is not None:
        latents = real_latents(settings, generator, data, site)
        ground = ground_cost(settings, site.device)
        makers.append(partial(_transport, options["transport"], latents, ground, site.device))
    if options["deviation"] is not None:
        size = math.prod(generator.sampler.denoiser.latent_shape)
        makers.append(partial(_deviation, options["deviation"], size))
    if options["influence"] is not None:
        makers.append(influence_maker(settings, generator, data, site))
    if not makers:
        return None

    def guides(classes: Tensor) -> CumulativeGuidance:
        return CombinedGuidance([make(classes) for make in makers])

    return guides


def real_latents(
    settings: dict[str, Any], generator: Generator, data: RealDataModule, site: Site
) -> LatentTable:
    """Return the latents of some real images of every class, encoding those that are missing."""
    spec, wanted = data.spec, settings["generator"]["num_real"]
    indices = data.train.draw(wanted, generator=keyed_generator(CACHE_SEED, "real latents"))
    latent_shape = generator.codec.latent_shape(generator.resolution)
    identity: dict[str, Any] = {
        "autoencoder": generator.codec.identity(),
        "images": {"count": len(data.train), "classes": list(spec.class_names)},
        "resolution": [spec.resolution, generator.resolution],
        "num_real": wanted,
    }
    own = Path(settings["cache_dir"]) / "latents" / f"{spec.name}-{name_of(identity)}"
    named = settings["generator"]["latents"]
    folder = own if named is None else Path(named)
    table = LatentTable.open(
        folder, (len(indices), indices.shape[1]), latent_shape, torch.float16, identity
    )
    encode_real(
        table,
        data.train,
        indices,
        codec=generator.codec,
        resolution=generator.resolution,
        processes=site.processes,
        device=site.device,
    )
    return table


def ground_cost(settings: dict[str, Any], device: torch.device) -> GroundCost:
    """Build the cost between latents: absolute, or that of the run's geometry, held fixed."""
    if settings["guidance"]["transport"]["ground"] == "l1":
        return AbsoluteGround()
    geometry = instantiate({**settings["geometry"], "seed": settings["seed"]})
    return ProductGround(geometry.to(device))


def _transport(
    options: dict[str, Any],
    latents: LatentTable,
    ground: GroundCost,
    device: torch.device,
    classes: Tensor,
) -> Guidance:
    positions = torch.arange(latents.rows_shape[1])
    real = latents.read(classes[:, None], positions[None]).to(device)
    return transport_guidance(options, real, ground)


def transport_guidance(
    options: dict[str, Any], real: Tensor, ground: GroundCost
) -> TransportGuidance:
    """Build OT guidance towards real latents ``(n, m, ch, h, w)``, as its settings say."""
    numbers = {key: value for key, value in options.items() if key != "ground"}
    return TransportGuidance(real, ground=ground, **numbers)


def _deviation(options: dict[str, Any], size: int, classes: Tensor) -> Guidance:
    scale = options["scale"] * size / IGD_LATENT
    return DeviationGuidance(**{**options, "scale": scale})


def influence_maker(
    settings: dict[str, Any], generator: Generator, data: RealDataModule, site: Site
) -> Callable[[Tensor], Guidance]:
    """Train IGD's surrogates and return what makes the influence guidance of some classes."""
    options, spec = settings["guidance"]["influence"], data.spec

    build = network_builder(options["network"], spec)
    states = trained_surrogates(
        data.train,
        build,
        settings=surrogate_settings(settings),
        folder=Path(settings["cache_dir"]) / "surrogates",
        identity={"data": spec._asdict(), "network": options["network"]},
        seed=CACHE_SEED,
        site=site,
    )
    surrogates = []
    for state in states:
        network = build(keyed_generator(CACHE_SEED, "surrogate"))
        network.load_state_dict(state)
        surrogates.append(network.to(site.device).eval())
    return Influence(options, surrogates, generator, data, site.device)


def surrogate_settings(settings: dict[str, Any]) -> SurrogateSettings:
    """Return how IGD's surrogates are trained, under the schedule's cap."""
    options = settings["guidance"]["influence"]
    return SurrogateSettings(
        tuple(options["epochs"]),
        max_steps=settings["schedule"]["max_pretrain_steps"],
        **{key: options[key] for key in ("batch_size", "lr", "momentum", "weight_decay")},
    )


class Influence:
    """Makes the influence guidance of some classes; what their real images teach is kept.

    Args:
        options: The settings of the guidance.
        surrogates: States of a trained network.
        generator: Whose samples are decoded.
        data: Real images.
        device: Where to compute.
    """

    def __init__(
        self,
        options: dict[str, Any],
        surrogates: list[Network],
        generator: Generator,
        data: RealDataModule,
        device: torch.device,
    ) -> None:
        self.options = options
        self.surrogates = surrogates
        self.generator = generator
        self.data = data
        self.device = device
        self._kept: tuple[list[int], list[Tensor]] = ([], [])

    def __call__(self, classes: Tensor) -> Guidance:
        """Return the guidance of some classes ``(n,)``."""
        if self._kept[0] != classes.tolist():
            real = [
                class_gradients(surrogate, self._batches(classes), labels=classes.to(self.device))
                for surrogate in self.surrogates
            ]
            self._kept = (classes.tolist(), real)
        return InfluenceGuidance(
            self.surrogates,
            self._kept[1],
            decode=self._decode,
            labels=classes.to(self.device),
            scale=self.options["scale"],
            window=tuple(self.options["window"]),
        )

    def _batches(self, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised real images of the classes, those of one class at a time."""
        table, wanted = self.data.train, self.options["num_real"]
        drawn = table.draw(wanted, generator=keyed_generator(CACHE_SEED, "influence"))
        for label in classes.tolist():
            for indices in drawn[label].split(GRADIENT_BATCH):
                images = normalise(table.gather(indices).to(self.device), table.spec)
                yield images, torch.full((len(indices),), label, device=self.device)

    def _decode(self, latents: Tensor) -> Tensor:
        images = resized(self.generator.codec.decode(latents), self.data.spec.resolution)
        return normalise(images, self.data.spec)
