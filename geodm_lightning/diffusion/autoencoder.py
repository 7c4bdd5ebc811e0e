"""Training a small autoencoder, for images too large to be denoised as pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError


class AutoencoderSettings(NamedTuple):
    """How an autoencoder is trained; inferred.

    Attributes:
        num_steps: Optimiser steps, over which the learning rate falls to 0 along a cosine.
        lr: Greatest learning rate of AdamW.
        kl_weight: Weight of the divergence of the posterior from the standard normal, per
            number of the image; small, so that reconstruction rules.
        gradient_clip: Greatest norm of a gradient.
    """

    num_steps: int
    lr: float = 1e-3
    kl_weight: float = 1e-6
    gradient_clip: float = 1.0


class AutoencoderTraining(lightning.LightningModule):
    """Learns to rebuild images from latents: absolute error plus a small divergence.

    There is no perceptual and no adversarial loss, so fine texture is blurred: honest for runs
    that need an autoencoder of their own, no match for published ones.

    When the training ends, ``scaling_factor`` in the configuration becomes one over the root mean
    square of the latents, which gives them about unit variance.

    Args:
        autoencoder: An ``AutoencoderKL``; trained in place.
        settings: Steps, learning rate, weight of the divergence.
        seed: Seed of the draws from the posterior, keyed by step.

    Note:
        Batches are ``(images (n, ch, H, W) in unit range, …)``; what follows is ignored.
    """

    def __init__(self, autoencoder: nn.Module, *, settings: AutoencoderSettings, seed: int) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.train().requires_grad_(True)
        self.settings = settings
        self._seed = seed
        self.mean_square: Tensor
        self.register_buffer("mean_square", torch.ones(()))

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        images = batch[0] * 2 - 1
        posterior = self.autoencoder.encode(images).latent_dist
        generator = keyed_generator(self._seed, "autoencoder", self.global_step)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
        latents = posterior.mean + posterior.std * noise
        rebuilt = self.autoencoder.decode(latents).sample
        share = min(0.99, (1 + self.global_step) / (10 + self.global_step))
        self.mean_square.lerp_(latents.detach().float().square().mean(), 1 - share)
        divergence = posterior.kl().sum() / images.numel()
        return (rebuilt - images).abs().mean() + self.settings.kl_weight * divergence

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient's norm."""
        nn.utils.clip_grad_norm_(self.autoencoder.parameters(), self.settings.gradient_clip)

    def on_train_end(self) -> None:
        """Write the latents' scale into the configuration."""
        self.autoencoder.register_to_config(scaling_factor=self.mean_square.item() ** -0.5)

    def configure_optimizers(self) -> Any:
        """Build AdamW with a cosine, stepped after every batch."""
        optimizer = AdamW(self.autoencoder.parameters(), lr=self.settings.lr)
        num_steps = self.settings.num_steps

        def factor(step: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))

        scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def build_autoencoder(
    channels: int,
    *,
    widths: tuple[int, ...],
    latent_channels: int,
    generator: torch.Generator,
) -> nn.Module:
    """Build an ``AutoencoderKL`` with fresh weights.

    Args:
        channels: Channels of the images.
        widths: Channels at each scale; each scale after the first halves height and width. Every
            one is a multiple of 8.
        latent_channels: Channels of the latents.
        generator: Draws all weights.

    Returns:
        The autoencoder in evaluation mode, on the CPU, float32.

    Raises:
        InputError: If a width is not a multiple of 8.
    """
    from diffusers import AutoencoderKL

    if not widths or any(width < 8 or width % 8 for width in widths):
        raise InputError(f"widths {list(widths)} of an autoencoder are not all multiples of 8")
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder: Any = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=8,
        )
    return autoencoder.eval()
