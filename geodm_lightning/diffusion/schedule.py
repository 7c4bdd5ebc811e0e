"""How much noise there is at every step of a diffusion, and one step back.

The forward process of DDPM keeps the share ``alpha_cumprod`` of the clean signal's variance,
``x_t = sqrt(alpha_cumprod) x_0 + sqrt(1 - alpha_cumprod) noise``. All tables are float64.

References:
    Ho et al., "Denoising diffusion probabilistic models", 2020 (steps, fixed variance).
    Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021 (respacing,
    learned range of variances). Song et al., "Denoising diffusion implicit models", 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geodm_lightning.types import InputError


@dataclass(frozen=True)
class NoiseSchedule:
    """The linear schedule of variances DiT was trained with.

    Attributes:
        num_timesteps: Steps of the full process.
        first_beta: Variance added by the first step.
        last_beta: Variance added by the last step.

    Raises:
        InputError: If the variances do not rise within (0, 1) or there are fewer than 2 steps.
    """

    num_timesteps: int = 1000
    first_beta: float = 1e-4
    last_beta: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.first_beta <= self.last_beta < 1 or self.num_timesteps < 2:
            raise InputError(
                f"no noise schedule with {self.num_timesteps} steps from {self.first_beta} to "
                f"{self.last_beta}; choose at least 2 steps and 0 < first_beta <= last_beta < 1"
            )

    @property
    def alphas_cumprod(self) -> Tensor:
        """``(num_timesteps,)`` share of the clean signal's variance, falling towards 0."""
        betas = torch.linspace(
            self.first_beta, self.last_beta, self.num_timesteps, dtype=torch.float64
        )
        return (1 - betas).cumprod(0)

    def respaced(self, num_steps: int) -> RespacedSchedule:
        """Return the process that visits only some timesteps of the full one.

        The timesteps lie evenly between the first and the last, both included: 50 of 1000 are
        0, 20, 41, … 979, 999 (stride 999/49), as DiT and IGD sample, unlike the spacings of
        diffusers, which leave out one end.

        Args:
            num_steps: Steps to take, 2 to ``num_timesteps``.

        Returns:
            The tables of the shorter process.

        Raises:
            InputError: If the number of steps is out of range.
        """
        if not 2 <= num_steps <= self.num_timesteps:
            raise InputError(
                f"num_steps={num_steps} is not between 2 and {self.num_timesteps}, the steps the "
                f"diffusion model knows; 50 is usual"
            )
        stride = (self.num_timesteps - 1) / (num_steps - 1)
        timesteps = tuple(round(index * stride) for index in range(num_steps))
        return RespacedSchedule(timesteps, self.alphas_cumprod[list(timesteps)])


@dataclass(frozen=True)
class RespacedSchedule:
    """A process over chosen timesteps; an index counts them from the cleanest, 0.

    Attributes:
        timesteps: What the network is told at each index, rising.
        alphas_cumprod: ``(num_steps,)`` share of the clean signal's variance, falling.
    """

    timesteps: tuple[int, ...]
    alphas_cumprod: Tensor

    @property
    def num_steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def previous_alphas_cumprod(self) -> Tensor:
        """``(num_steps,)`` share of the clean signal one step nearer to it; 1 at index 0."""
        return torch.cat([torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]])

    @property
    def betas(self) -> Tensor:
        """``(num_steps,)`` variance each step of this process adds."""
        return 1 - self.alphas_cumprod / self.previous_alphas_cumprod

    @property
    def posterior_variances(self) -> Tensor:
        """``(num_steps,)`` variance of a step back when the clean sample is known; 0 at index 0."""
        return self.betas * (1 - self.previous_alphas_cumprod) / (1 - self.alphas_cumprod)

    @property
    def clean_coefficients(self) -> Tensor:
        """``(num_steps,)`` factor of the clean sample in the mean of a step back."""
        return self.betas * self.previous_alphas_cumprod.sqrt() / (1 - self.alphas_cumprod)

    @property
    def latent_coefficients(self) -> Tensor:
        """``(num_steps,)`` factor of the noisy sample in the mean of a step back."""
        remaining = (1 - self.previous_alphas_cumprod) / (1 - self.alphas_cumprod)
        return (1 - self.betas).sqrt() * remaining

    @property
    def log_variance_range(self) -> tuple[Tensor, Tensor]:
        """Logarithms of the least and greatest variance of a step back, ``(num_steps,)`` each.

        The least is the posterior's, which is 0 at index 0; there that of index 1 stands, as in
        improved DDPM. The greatest is ``betas``.
        """
        least = self.posterior_variances.clone()
        least[0] = least[1]
        return least.log(), self.betas.log()

    def clean(self, latents: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return the clean samples that ``noise`` leaves of ``latents``, not clipped.

        Args:
            latents: ``(n, ch, h, w)`` noisy samples.
            noise: ``(n, ch, h, w)`` predicted noise.
            index: Position in this process.
        """
        kept = self.alphas_cumprod[index].item()
        return (latents - (1 - kept) ** 0.5 * noise) / kept**0.5

    def posterior_mean(self, latents: Tensor, clean: Tensor, index: int) -> Tensor:
        """Return the mean of a step back from ``latents``, given the clean samples."""
        clean_factor = self.clean_coefficients[index].item()
        return clean_factor * clean + self.latent_coefficients[index].item() * latents

    def deviation(self, variance: Tensor | None, index: int) -> Tensor | float:
        """Return the standard deviation of a step back.

        Args:
            variance: Where the model learns it, its place between the least (0) and the greatest
                (1) on the logarithmic scale; None for the least.
            index: Position in this process.
        """
        least, greatest = (bound[index].item() for bound in self.log_variance_range)
        if variance is None:
            return math.exp(least / 2)
        return ((least + variance * (greatest - least)) / 2).exp()

    def implicit_step(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return the samples after a step of DDIM without noise (eta 0)."""
        kept = self.previous_alphas_cumprod[index].item()
        return kept**0.5 * clean + (1 - kept) ** 0.5 * noise
