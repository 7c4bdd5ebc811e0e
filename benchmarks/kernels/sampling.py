"""A step of guided sampling: the denoiser with and without the class, then the push."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from sampling import MODELS, REAL, guidance
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from turns import Meter, clock, medians, take_turns
from work import FLOAT, Measured, Work, shared_out

from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.diffusion.training import build_transformer
from geodm_lightning.randomness import keyed_generator

NAME = "sampler step"
NUM_STEPS = 2  # of a sampling; all are guided
ABSOLUTE = 3  # operations per coordinate of an absolute difference, and of its weighted sign


class Sizes(NamedTuple):
    """What is denoised.

    Attributes:
        model: Key of ``sampling.MODELS``.
        latent: ``(ch, h, w)`` of a sample.
        batch: Samples at once, each of a class of its own.
        ipc: Images of a class, of which all but one are finished.
    """

    model: str
    latent: tuple[int, int, int]
    batch: int
    ipc: int


class Sampling:
    """Guided sampling of a few steps with a transformer of random weights."""

    def __init__(self, sizes: Sizes, device: torch.device, precision: str) -> None:
        transformer = build_transformer(
            sizes.latent,
            sizes.batch,
            **MODELS[sizes.model],
            patch_size=2,
            learned_variance=True,
            generator=keyed_generator(0, "benchmark"),
        )
        told = "bf16-mixed" if precision == "bf16" else "32-true"
        self.denoiser = Denoiser(transformer.to(device), precision=told)
        self.sampler = Sampler(self.denoiser, num_steps=NUM_STEPS)
        self.labels = torch.arange(sizes.batch, device=device)
        self.guidance = guidance(
            sizes.batch, device, latent=sizes.latent, finished=sizes.ipc - 1, window=(0.0, 1.0)
        )

    def __call__(self, turn: int) -> Tensor:
        """Sample once."""
        generators = [keyed_generator(0, "noise", index) for index in range(len(self.labels))]
        return self.sampler.sample(self.labels, generators=generators, guidance=self.guidance)

    def sections(self, meter: Meter) -> dict[str, float]:
        """Return what the sections of one sampling took."""
        with ExitStack() as stack:
            stack.enter_context(meter.on(self.denoiser, "predict", "denoiser"))
            stack.enter_context(meter.on(self.guidance, "push", "guidance"))
            self(0)
        return meter.sums()


def measure(
    sizes: Sizes, device: torch.device, *, precision: str, repeats: int
) -> dict[str, Measured]:
    """Time a guided step."""
    sampling, now = Sampling(sizes, device, precision), clock(device)
    seconds = medians(take_turns({NAME: sampling}, device, repeats))[NAME] / NUM_STEPS
    began = now()
    sections = sampling.sections(Meter(now))
    whole = now() - began
    with FlopCounterMode(display=False) as counter:
        flops = sampling.sections(Meter(counter.get_total_flops))
    per_step = {name: count / NUM_STEPS for name, count in flops.items()}
    return {
        "": Measured(
            seconds,
            shared_out(seconds, sections, whole),
            work(sizes, sampling.denoiser, per_step),
            {**sizes._asdict(), "real": REAL, "images": sizes.batch},
        )
    }


def work(sizes: Sizes, denoiser: Denoiser, flops: dict[str, float]) -> dict[str, Work]:
    """Add to the products of a step what is beside them, and the bytes."""
    pixels = torch.Size(sizes.latent).numel()
    latents, real = sizes.batch * pixels, sizes.batch * REAL * pixels
    memory = sizes.batch * (sizes.ipc - 1) * pixels
    weights = sum(p.numel() for p in denoiser.parameters())
    plan = sizes.batch * REAL * sizes.ipc
    return {
        "denoiser": Work(flops["denoiser"], FLOAT * (weights + 3 * latents)),
        "guidance": Work(
            flops["guidance"] + 2 * ABSOLUTE * real + 2 * memory,
            FLOAT * (real + memory + 2 * latents + plan),
        ),
        "rest": Work(8 * latents, FLOAT * 5 * latents),  # clean sample, mean, noise, push
    }
