"""From noise to samples, step by step, under whatever guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from geodm_lightning.diffusion.denoiser import Denoiser, Prediction
from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.types import DenoisingStep, InputError

KINDS = ("ddpm", "ddim")


class Guidance(Protocol):
    """Something that pushes samples while they are denoised."""

    def needs_graph(self, index: int, num_steps: int) -> bool:
        """Whether the push at this step differentiates through the denoiser."""
        ...

    def push(self, step: DenoisingStep) -> Tensor:
        """Return ``(n, ch, h, w)``, to be subtracted from what the step results in."""
        ...


class Sampler:
    """Ancestral sampling (DDPM) as DiT and IGD do it, or DDIM without noise.

    A sample draws all its noise from a generator of its own, on the CPU, so neither the batch
    it is in nor the device decides what it becomes. The predicted clean samples are not
    clipped. The variance of an ancestral step is the model's where it learns one, else the
    posterior's (the smaller of the two fixed choices).

    Args:
        denoiser: Predicts the noise.
        num_steps: Steps of the respaced schedule.
        kind: "ddpm" or "ddim".
        schedule: The process the denoiser was trained with.

    Raises:
        InputError: If ``kind`` is unknown or ``num_steps`` does not fit the schedule.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        num_steps: int = 50,
        kind: str = "ddpm",
        schedule: NoiseSchedule | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"sampler {kind} is not one of {', '.join(KINDS)}")
        self.denoiser = denoiser
        self.kind = kind
        self.schedule = (schedule or NoiseSchedule()).respaced(num_steps)

    def sample(
        self,
        labels: Tensor,
        *,
        generators: Sequence[torch.Generator],
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Denoise one sample per label.

        Where the guidance needs no graph nothing is recorded and it sees plain tensors; where it
        does, ``latents`` of the step requires a gradient, which ``clean`` and ``noise`` carry.

        Args:
            labels: ``(n,)`` int64 classes.
            generators: ``n`` CPU generators, one per sample.
            guidance: What pushes the samples after every step; None for nothing.

        Returns:
            ``(n, ch, h, w)`` clean samples in the scale of the denoiser, detached.

        Raises:
            InputError: If the counts differ or a label is not a class of the denoiser.
        """
        self._check(labels, generators)
        labels = labels.to(self.denoiser.device)
        with torch.inference_mode(False), torch.no_grad():
            latents = self._noise(generators)
            for index in reversed(range(self.schedule.num_steps)):
                latents = self._step(latents, index, labels, generators, guidance)
        return latents

    def _step(
        self,
        latents: Tensor,
        index: int,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        guidance: Guidance | None,
    ) -> Tensor:
        num_steps = self.schedule.num_steps
        graph = guidance is not None and guidance.needs_graph(index, num_steps)
        with torch.set_grad_enabled(graph):
            latents = latents.detach().requires_grad_(graph)
            timestep = self.schedule.timesteps[index]
            prediction = self.denoiser.predict(latents, timestep, labels)
            clean = self.schedule.clean(latents, prediction.noise, index)
            push = None
            if guidance is not None:
                kept = self.schedule.alphas_cumprod[index].item()
                step = DenoisingStep(index, num_steps, latents, clean, prediction.noise, kept)
                push = guidance.push(step).detach()
        result = self._result(latents.detach(), clean.detach(), prediction, index, generators)
        return result if push is None else result - push

    def _result(
        self,
        latents: Tensor,
        clean: Tensor,
        prediction: Prediction,
        index: int,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        if self.kind == "ddim":
            return self.schedule.implicit_step(clean, prediction.noise.detach(), index)
        mean = self.schedule.posterior_mean(latents, clean, index)
        if index == 0:
            return mean
        variance = None if prediction.variance is None else prediction.variance.detach()
        return mean + self.schedule.deviation(variance, index) * self._noise(generators)

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = self.denoiser.latent_shape
        drawn = torch.stack([torch.randn(shape, generator=each) for each in generators])
        return drawn.to(device=self.denoiser.device, dtype=self.denoiser.dtype)

    def _check(self, labels: Tensor, generators: Sequence[torch.Generator]) -> None:
        if len(labels) != len(generators) or len(labels) == 0:
            raise InputError(
                f"{len(labels)} labels and {len(generators)} generators; give each sample, at "
                f"least one, a generator of its own"
            )
        num_classes = self.denoiser.num_classes
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InputError(
                f"labels {labels.min()} to {labels.max()} are not among the {num_classes} classes "
                f"of the diffusion model; choose a model trained on this data set"
            )
