"""Sampling a distilled set from a diffusion model: classes side by side, images in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from geodm_lightning.diffusion.codec import Codec
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.diffusion.sampler import Guidance, Sampler
from geodm_lightning.distillers.real_latents import resized
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, DenoisingStep

DECODED_AT_ONCE = 32  # images; decides memory only


class CumulativeGuidance(Guidance, Protocol):
    """Guidance that looks at the finished images of a class while the next one is made.

    Attributes:
        statistics: What the last push was like, one value per class ``(n,)`` for each name.
    """

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What the last push was like."""

    def begin(self, memory: Tensor) -> None:
        """Start a round beside the finished latents ``(n, k, ch, h, w)`` of its classes."""


Guides: TypeAlias = Callable[[Tensor], CumulativeGuidance]  # classes (n,) -> their guidance
Report: TypeAlias = Callable[[int, dict[str, Tensor]], None]  # images made, statistics


class GenerationCost(NamedTuple):
    """What sampling took on this process.

    Attributes:
        seconds: Wall-clock time of all denoising.
        guidance_seconds: Part of it that computed pushes.
        num_images: Images made; those taken over from an earlier start are not counted.
    """

    seconds: float = 0.0
    guidance_seconds: float = 0.0
    num_images: int = 0

    def plus(self, seconds: float, guidance_seconds: float, num_images: int) -> GenerationCost:
        """Return the sum with the cost of a batch."""
        return GenerationCost(
            self.seconds + seconds,
            self.guidance_seconds + guidance_seconds,
            self.num_images + num_images,
        )


def generate_latents(
    sampler: Sampler,
    table: LatentTable,
    *,
    labels: Tensor,
    seed: int,
    batch_size: int,
    guides: Guides | None,
    processes: Processes,
    device: torch.device,
    report: Report,
) -> GenerationCost:
    """Sample what a table of latents still lacks.

    Guidance is cumulative: an image of a class sees those of the same class before it. So the
    classes of a batch are denoised side by side and the images of each in turn, where published
    samplers make one image at a time. Without guidance a batch takes any images. The noise of
    an image is keyed by (seed, class, index): neither the batch, nor the number of processes,
    nor how many images are wanted changes it.

    Args:
        sampler: Denoises from noise.
        table: Latents ``(C, ipc, ch, h, w)`` of all classes; a finished one is kept at once.
        labels: ``(C,)`` the model's label of every class.
        seed: Seed of the run.
        batch_size: Images denoised together.
        guides: Makes the guidance of some classes; None samples without.
        processes: Each process makes the images of the classes it owns.
        device: Where to compute.
        report: Told after every batch how many images were made, with the guidance's statistics.

    Returns:
        What it took.

    Raises:
        InputError: If a finished latent is damaged.
    """
    missing = table.missing()
    num_classes = len(missing)
    owned = torch.arange(num_classes)[processes.shard(num_classes)]
    cost = GenerationCost()
    for classes, indices in _batches(owned, missing, batch_size, in_turn=guides is not None):
        guidance = None if guides is None else _Stopwatch(guides(classes))
        if guidance is not None:
            before = torch.arange(int(indices[0]))
            guidance.begin(table.read(classes[:, None], before[None]).to(device))
        start = time.perf_counter()
        latents = sampler.sample(
            labels[classes].to(device),
            generators=[
                keyed_generator(seed, "generation", c, i)
                for c, i in zip(classes.tolist(), indices.tolist(), strict=True)
            ],
            guidance=guidance,
        )
        table.write(classes, indices, latents.cpu())
        spent = 0.0 if guidance is None else guidance.seconds
        cost = cost.plus(time.perf_counter() - start, spent, len(classes))
        report(len(classes), {} if guidance is None else guidance.statistics)
    return cost


def _batches(
    owned: Tensor, missing: Tensor, batch_size: int, *, in_turn: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return class and index ``(n,)`` each of the images to make together, batch by batch."""
    if not in_turn:
        pairs = missing[owned].nonzero()
        return [(owned[pair[:, 0]], pair[:, 1]) for pair in pairs.split(batch_size) if len(pair)]
    batches = []
    for classes in owned.split(batch_size):
        for index in range(missing.shape[1]):
            waiting = classes[missing[classes, index]]
            if len(waiting):
                batches.append((waiting, torch.full_like(waiting, index)))
    return batches


class _Stopwatch:
    """Guidance that measures how long its pushes take."""

    def __init__(self, guidance: CumulativeGuidance) -> None:
        self.guidance = guidance
        self.seconds = 0.0

    @property
    def statistics(self) -> dict[str, Tensor]:
        return self.guidance.statistics

    def begin(self, memory: Tensor) -> None:
        self.guidance.begin(memory)

    def needs_graph(self, index: int, num_steps: int) -> bool:
        return self.guidance.needs_graph(index, num_steps)

    def push(self, step: DenoisingStep) -> Tensor:
        is_cuda = step.latents.is_cuda
        if is_cuda:
            torch.cuda.synchronize(step.latents.device)
        start = time.perf_counter()
        pushed = self.guidance.push(step)
        if is_cuda:
            torch.cuda.synchronize(step.latents.device)
        self.seconds += time.perf_counter() - start
        return pushed


def decode_images(
    codec: Codec,
    table: LatentTable,
    *,
    spec: DatasetSpec,
    processes: Processes,
    device: torch.device,
) -> Tensor:
    """Decode finished latents to pictures of the data set's resolution.

    Args:
        codec: Decodes latents to unit range.
        table: Latents ``(C, ipc, ch, h, w)``, none missing.
        spec: Resolution of the pictures; larger ones are scaled down, smaller ones up.
        processes: Each process decodes the classes it owns.
        device: Where to compute.

    Returns:
        uint8 images ``(C, ipc, channels, resolution, resolution)`` on every process.

    Raises:
        InputError: If a latent is damaged.
    """
    num_classes, num_images = table.rows_shape
    owned = torch.arange(num_classes)[processes.shard(num_classes)]
    shape = (spec.channels, spec.resolution, spec.resolution)
    pictures = torch.empty(len(owned) * num_images, *shape, dtype=torch.uint8)
    positions = torch.cartesian_prod(owned, torch.arange(num_images)).reshape(-1, 2)
    with torch.inference_mode():
        for first in range(0, len(positions), DECODED_AT_ONCE):
            chosen = positions[first : first + DECODED_AT_ONCE]
            latents = table.read(chosen[:, 0], chosen[:, 1]).to(device)
            images = resized(codec.decode(latents).float(), spec.resolution)
            eight_bits = images.clamp(0, 1).mul(255).round().to(torch.uint8)
            pictures[first : first + len(chosen)] = eight_bits.cpu()
    own = pictures.unflatten(0, (len(owned), num_images))
    # Gathered where the processes can add, one image of every class at a time.
    gathered = [processes.gather(own[:, i].to(device), num_classes) for i in range(num_images)]
    return torch.stack([part.cpu() for part in gathered], dim=1)
