"""What it costs to sample the sets of a run from a diffusion model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from geodm_lightning import assembly
from geodm_lightning.assembly.generator import Generator, build_sampler
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.distillers.generation import DECODED_AT_ONCE, Guides
from geodm_lightning.memory import fitting_batch, held_bytes, room_on, traced
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone, ProbeSite, Work, one_training
from geodm_lightning.probes.sets import set_bytes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.generate import pushes
from geodm_lightning.stages.run import Run

TIMED_STEPS = 4  # of a denoising, each like all others
ENCODED = 32  # real images of a class that an autoencoder encodes to time it


class Denoising(NamedTuple):
    """Sampling as one row does it.

    Attributes:
        generator: The diffusion model.
        sampler: Makes a few of its steps.
        guides: Makes guidance, None without.
        device: Where to compute.
    """

    generator: Generator
    sampler: Sampler
    guides: Guides | None
    device: torch.device

    def sample(self, num: int) -> None:
        """Denoise ``num`` samples of the first class, the only one whose real latents are there."""
        classes = torch.zeros(num, dtype=torch.int64)
        guidance = None if self.guides is None else self.guides(classes)
        if guidance is not None:
            shape = self.sampler.denoiser.latent_shape
            guidance.begin(torch.zeros(num, 1, *shape, device=self.device))
        self.sampler.sample(
            self.generator.labels[classes].to(self.device),
            generators=[keyed_generator(0, "probe", index) for index in range(num)],
            guidance=guidance,
        )


def probe_generation(run: Run, methods: list[Method]) -> Iterator[Work]:
    """Measure the trainings that sampling needs, the real latents, the sampling, the decoding.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
        methods: Rows that are sampled and not finished.
    """
    site = run.site
    assert isinstance(site, ProbeSite)
    alone = site._replace(processes=Alone())
    with alone.watch() as clocks:
        generator = assembly.build_generator(run.settings, run.data, alone)
    for clock in clocks:
        yield one_training("distill", "train the generator", clock)
    fresh = bool(clocks)  # its samples are none of those an earlier start has made
    for method in methods:
        # One class of as many processes as classes: its real latents are enough to time all.
        one = site._replace(processes=Alone(0, run.data.spec.num_classes))
        with one.watch() as clocks:
            began = time.perf_counter()
            options, share = encoded(method.settings)
            guides = assembly.build_guides(options, generator, run.data, one)
            spent = time.perf_counter() - began - sum(clock.lifetime for clock in clocks)
        for clock in clocks:
            yield one_training("distill", f"train what guides {method.label}", clock)
        if guides is not None:
            classes = -(-run.data.spec.num_classes // site.processes.world_size)
            yield Work(
                "distill",
                f"encode real images for {method.label}",
                steps=classes,
                seconds_per_step=spent / share,
                memory=held_bytes(site.device),
                shared=True,
            )
        yield from sampling_work(run, method, generator, guides, fresh=fresh)


def encoded(settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return settings with few real images to encode, and their share of the wanted ones."""
    options = settings["generator"]
    if options["autoencoder"] is None or options["num_real"] <= ENCODED:
        return settings, 1.0
    few = {**settings, "generator": {**options, "num_real": ENCODED}}
    return few, ENCODED / options["num_real"]


def sampling_work(
    run: Run, method: Method, generator: Generator, guides: Guides | None, *, fresh: bool
) -> Iterator[Work]:
    """Time a few steps of a batch, and the decoding of what it makes."""
    options, device = run.settings["generator"], run.site.device
    num_steps = options["num_steps"]
    short = {**options, "num_steps": min(TIMED_STEPS, num_steps)}
    sampler = build_sampler(short, generator.sampler.denoiser)
    denoising = Denoising(generator, sampler, guides, device)

    def needs(count: int) -> int:
        with traced(device) as peak:
            denoising.sample(count)
        return peak()

    owned = -(-run.data.spec.num_classes // run.site.processes.world_size)
    waiting = waiting_images(run, method, generator, fresh=fresh)
    together = owned if guides is not None else max(1, -(-waiting // run.site.processes.world_size))
    denoising.sample(1)  # makes what later samples reuse
    fit = fitting_batch(
        needs,
        max(1, min(options["batch_size"], together)),
        setting="generator.batch_size",
        room=room_on(device),
    )
    began = time.perf_counter()
    denoising.sample(fit.batch)
    each = (time.perf_counter() - began) / fit.batch / short["num_steps"] * num_steps
    total = run.data.spec.num_classes * run.settings["ipc"]
    own = -(-waiting // run.site.processes.world_size)
    shape = generator.sampler.denoiser.latent_shape
    yield Work(
        "distill",
        f"sample {method.label}",
        steps=own,
        done=total - waiting,
        seconds_per_step=each + decoding_seconds(generator, min(DECODED_AT_ONCE, total), device),
        memory=held_bytes(device) + fit.memory,
        disk=waiting * torch.Size(shape).numel() * 4 + set_bytes(run, bytes_per_pixel=1),
        advice=fit.advice,
    )


def waiting_images(run: Run, method: Method, generator: Generator, *, fresh: bool) -> int:
    """Return the images of a row that are still to be sampled."""
    shape = (run.data.spec.num_classes, run.settings["ipc"])
    folder = run.folder.latents(method.key)
    if fresh or not folder.is_dir():
        return shape[0] * shape[1]
    table = LatentTable.open(
        folder,
        shape,
        generator.sampler.denoiser.latent_shape,
        torch.float32,
        {**generator.identity, **pushes(method.settings), "seed": run.seed},
    )
    return int(table.missing().sum())


def decoding_seconds(generator: Generator, num: int, device: torch.device) -> float:
    """Return the seconds of decoding one sample, in a batch of ``num``."""
    latents = torch.zeros(num, *generator.sampler.denoiser.latent_shape, device=device)
    with torch.inference_mode():
        generator.codec.decode(latents[:1])
        began = time.perf_counter()
        generator.codec.decode(latents).cpu()
    return (time.perf_counter() - began) / num
