"""A class-conditional diffusion transformer, asked for the noise in its samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.types import InputError

PRECISIONS = ("32-true", "bf16-mixed")


class Prediction(NamedTuple):
    """What the network says of noisy samples.

    Attributes:
        noise: ``(n, ch, h, w)`` noise in them, after guidance by the class.
        variance: ``(n, ch, h, w)`` place of the variance of a step back between its least (0) and
            greatest (1), as the network says it, not clipped; None where it does not learn it.
    """

    noise: Tensor
    variance: Tensor | None


class Denoiser(nn.Module):
    """Classifier-free guidance around a ``DiTTransformer2DModel`` of diffusers.

    The transformer is put in evaluation mode and its weights are frozen: gradients, where they
    are wanted, are those of the samples.

    Args:
        transformer: Called as ``transformer(latents, timestep=(n,), class_labels=(n,))``, returns
            an object whose ``sample`` has ``ch`` channels of noise and, where the variance is
            learned, ``ch`` more; its ``config`` has ``sample_size``, ``in_channels``,
            ``out_channels`` and ``num_embeds_ada_norm``, the label that means no class.
        guidance_scale: How far the noise is moved from the unconditional towards the
            conditional one; 1 asks the conditional one alone (DiT-XL/2 at 256 px: 4).
        guided_channels: Leading channels that are guided; the rest are the conditional ones (DiT
            guides 3 of its 4); None for all.
        precision: "32-true" (whatever the weights are) or "bf16-mixed" (autocast; the samples and
            what is returned stay float32).
        checkpointing: Whether blocks are run twice rather than kept where a gradient is asked.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        guidance_scale: float = 4.0,
        guided_channels: int | None = 3,
        precision: str = "32-true",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= guidance_scale < float("inf"):
            raise InputError(f"guidance_scale={guidance_scale} is not 0 or more; 4 is usual")
        if guided_channels is not None and guided_channels < 1:
            raise InputError(f"guided_channels={guided_channels} guides nothing; 3 or null for all")
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
        self.transformer: Any = transformer.eval().requires_grad_(False)
        self.guidance_scale = guidance_scale
        self.guided_channels = guided_channels
        self.precision = precision
        if checkpointing:
            self._keep_less()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(ch, h, w)`` of a sample."""
        config = self.transformer.config
        return (config.in_channels, config.sample_size, config.sample_size)

    @property
    def num_classes(self) -> int:
        """Classes of the label table; the number is also the label that means none of them."""
        return self.transformer.config.num_embeds_ada_norm

    @property
    def learns_variance(self) -> bool:
        """Whether the network predicts the variance of a step back beside the noise."""
        config = self.transformer.config
        return config.out_channels == 2 * config.in_channels

    @property
    def dtype(self) -> torch.dtype:
        """Type of the samples: that of the weights."""
        return next(self.transformer.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.transformer.parameters()).device

    def train(self, mode: bool = True) -> Denoiser:
        """Stay in evaluation mode: a transformer in training mode drops labels at random."""
        return super().train(False)

    def predict(self, latents: Tensor, timestep: int, labels: Tensor) -> Prediction:
        """Predict the noise in samples of the given classes.

        Guidance needs both answers; they come from one call with a batch of ``2n``.

        Args:
            latents: ``(n, ch, h, w)`` noisy samples.
            timestep: Timestep of the full process, the same for all.
            labels: ``(n,)`` int64 classes.

        Returns:
            The prediction, differentiable in ``latents``.
        """
        channels = self.latent_shape[0]
        if self.guidance_scale == 1:
            output = self._output(latents, timestep, labels)
        else:
            none = torch.full_like(labels, self.num_classes)
            twice, both = torch.cat([latents, latents]), torch.cat([labels, none])
            output, unconditional = self._output(twice, timestep, both).chunk(2)
            guided = channels if self.guided_channels is None else self.guided_channels
            guided = min(guided, channels)
            start, target = unconditional[:, :guided], output[:, :guided]
            noise = start + self.guidance_scale * (target - start)
            output = torch.cat([noise, output[:, guided:]], dim=1)
        if not self.learns_variance:
            return Prediction(output, None)
        noise, variance = output.split(channels, dim=1)
        return Prediction(noise, (variance + 1) / 2)

    def _output(self, latents: Tensor, timestep: int, labels: Tensor) -> Tensor:
        timesteps = torch.full_like(labels, timestep)
        with torch.autocast(
            latents.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        ):
            answer = self.transformer(latents, timestep=timesteps, class_labels=labels)
        return answer.sample.to(latents.dtype)

    def _keep_less(self) -> None:
        self.transformer.enable_gradient_checkpointing()
