"""Training a small diffusion transformer from scratch."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from geodm_lightning.diffusion.codec import Codec
from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError


class DenoiserSettings(NamedTuple):
    """How a diffusion transformer is trained; inferred unless said.

    Attributes:
        num_steps: Optimiser steps, over which the learning rate falls to 0 along a cosine.
        lr: Greatest learning rate of AdamW.
        weight_decay: Weight decay of AdamW (DiT: 0).
        warmup: Share of the steps in which the learning rate rises.
        ema_decay: Decay of the average of the weights, which is what is kept; it is at most
            ``(1 + step) / (10 + step)`` so that a short training forgets its beginning.
        label_dropout: Share of labels replaced by the label that means no class (DiT: 0.1).
        gradient_clip: Greatest norm of a gradient.
    """

    num_steps: int
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    ema_decay: float = 0.999
    label_dropout: float = 0.1
    gradient_clip: float = 1.0


class DenoiserTraining(lightning.LightningModule):
    """Learns to predict the noise in images of known classes.

    The loss is the squared error of the noise; where the transformer has channels for the
    variance, plus 0.001 of the whole bound at 1000 timesteps, as improved DDPM, in bits.

    Timesteps are drawn stratified over the batch. Every draw is keyed by (seed, step), so a
    training resumed from a checkpoint goes on as if it had not stopped, provided its loader does.

    Args:
        transformer: A ``DiTTransformer2DModel``; trained in place.
        codec: Turns unit-range images into latents.
        settings: Steps, learning rate, averaging.
        seed: Seed of timesteps, noise and dropped labels.
        schedule: The process to learn.

    Note:
        Batches are ``(images (n, ch, H, W) in unit range, labels (n,))``. The result is
        :attr:`average`.
    """

    def __init__(
        self,
        transformer: nn.Module,
        codec: Codec,
        *,
        settings: DenoiserSettings,
        seed: int,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        for part in transformer.modules():
            if hasattr(part, "dropout_prob"):  # diffusers drops labels by the global generator
                setattr(part, "dropout_prob", 0.0)  # noqa: B010
        self.transformer: Any = transformer.train().requires_grad_(True)
        self.average: Any = copy.deepcopy(transformer).requires_grad_(False)
        self.settings = settings
        self._codec = codec
        self._seed = seed
        full = schedule or NoiseSchedule()
        self._schedule = full.respaced(full.num_timesteps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch at random timesteps."""
        images, labels = batch
        generator = keyed_generator(self._seed, "denoiser", self.global_step)
        latents = self._codec.encode(images, generator=generator)
        return self.loss(latents, labels, generator=generator)

    def loss(self, latents: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the loss of clean latents at timesteps, noise and labels it draws.

        Args:
            latents: ``(n, ch, h, w)`` clean latents.
            labels: ``(n,)`` int64 classes.
            generator: Draws on the CPU.

        Returns:
            Scalar.
        """
        num, device = len(latents), latents.device
        strata = torch.randperm(num, generator=generator) + torch.rand(num, generator=generator)
        last = self._schedule.num_steps - 1
        timesteps = (strata / num * self._schedule.num_steps).long().clamp(max=last)
        noise = torch.randn(latents.shape, generator=generator).to(device, latents.dtype)
        dropped = torch.rand(num, generator=generator) < self.settings.label_dropout
        none = torch.full_like(labels, self.transformer.config.num_embeds_ada_norm)
        labels = torch.where(dropped.to(device), none, labels)
        kept = self._at(self._schedule.alphas_cumprod, timesteps, latents)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        answer = self.transformer(noisy, timestep=timesteps.to(device), class_labels=labels)
        predicted, *variance = answer.sample.float().split(latents.shape[1], dim=1)
        error = (predicted - noise).square().mean()
        if not variance:
            return error
        bound = self._bound(latents, noisy, predicted.detach(), variance[0], timesteps)
        return error + bound.mean()

    def _bound(
        self, latents: Tensor, noisy: Tensor, noise: Tensor, variance: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Return the divergence of the true step back from the learned one, in bits.

        At timestep 0 the true variance, 0, is taken as that of timestep 1; sampling never asks
        for it.
        """
        schedule = self._schedule
        kept = self._at(schedule.alphas_cumprod, timesteps, noisy)
        clean = (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()
        shift = self._at(schedule.clean_coefficients, timesteps, noisy) * (latents - clean)
        least, greatest = (self._at(e, timesteps, noisy) for e in schedule.log_variance_range)
        log_variance = least + (variance + 1) / 2 * (greatest - least)
        ratio = (least - log_variance).exp() + shift.square() * (-log_variance).exp()
        return 0.5 * (log_variance - least + ratio - 1) / math.log(2)

    @staticmethod
    def _at(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
        return table[timesteps].to(like.device, like.dtype)[:, None, None, None]

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average towards the weights."""
        step = self.global_step
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        weights = list(self.transformer.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - decay)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient."""
        nn.utils.clip_grad_norm_(self.transformer.parameters(), self.settings.gradient_clip)

    def configure_optimizers(self) -> Any:
        """Build AdamW with a warm-up and a cosine, stepped after every batch."""
        settings = self.settings
        optimizer = AdamW(
            self.transformer.parameters(),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        rising = max(1.0, settings.warmup * settings.num_steps)

        def factor(step: int) -> float:
            fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.num_steps)))
            return min(1.0, (step + 1) / rising) * fall

        scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def build_transformer(
    latent_shape: tuple[int, int, int],
    num_classes: int,
    *,
    hidden: int,
    depth: int,
    heads: int,
    patch_size: int,
    learned_variance: bool,
    generator: torch.Generator,
) -> nn.Module:
    """Build a ``DiTTransformer2DModel`` with fresh weights.

    As in DiT, and not in diffusers, linear maps begin by Glorot and every modulation and the last
    layer with zeros: each block is the identity and the first prediction is 0. Unlike in DiT,
    embeddings begin at unit scale and not at 0.02: with those, a small model still ignores its
    labels after a thousand steps.

    Args:
        latent_shape: ``(ch, h, w)`` with ``h == w``.
        num_classes: Classes; the label table has one row more, for no class.
        hidden: Width, a multiple of 4 and of ``heads``.
        depth: Transformer blocks.
        heads: Attention heads.
        patch_size: Height and width of a token; divides ``h``.
        learned_variance: Whether the output also has channels for the variance.
        generator: Draws all weights.

    Returns:
        The transformer in evaluation mode, on the CPU, float32.

    Raises:
        InputError: If the sizes do not fit each other.
    """
    from diffusers import DiTTransformer2DModel

    channels, height, width = latent_shape
    if height != width or height % patch_size:
        raise InputError(
            f"latents of {height}x{width} are not squares of patches of {patch_size}; choose a "
            f"patch_size that divides {height}"
        )
    if hidden % 4 or hidden % heads:
        raise InputError(f"hidden={hidden} is not a multiple of 4 and of heads={heads}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        transformer: Any = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=hidden // heads,
            in_channels=channels,
            out_channels=2 * channels if learned_variance else channels,
            num_layers=depth,
            sample_size=height,
            patch_size=patch_size,
            num_embeds_ada_norm=num_classes,
            norm_num_groups=1,
        )
        _initialise(transformer)
    return transformer.eval()


def _initialise(transformer: Any) -> None:
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    patches = transformer.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
    nn.init.zeros_(patches.bias)
    last = [transformer.proj_out_1, transformer.proj_out_2]
    for block in transformer.transformer_blocks:
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight)
        last.append(block.norm1.linear)
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
