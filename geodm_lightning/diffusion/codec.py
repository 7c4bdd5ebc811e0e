"""Images in unit range to the latents a diffusion model knows, and back."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geodm_lightning.diffusion.denoiser import PRECISIONS
from geodm_lightning.diffusion.weights import identity_of
from geodm_lightning.types import InputError


class Codec(Protocol):
    """Turns images into latents of about unit variance and back."""

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return ``(ch, h, w)`` of the latents of square images.

        Raises:
            InputError: If images of this resolution have none.
        """
        ...

    def encode(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return float latents ``(n, ch, h, w)`` of unit-range images, detached."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in unit range, not clamped to it, differentiable in ``latents``."""
        ...

    def identity(self) -> str:
        """Return a text that differs wherever the latents of an image would."""
        ...


class PixelCodec:
    """No autoencoder: latents are the pixels, moved from [0, 1] to [-1, 1].

    Args:
        resolution: Height and width of the images, those of the diffusion model.
        channels: Channels of the images.
    """

    def __init__(self, resolution: int, *, channels: int = 3) -> None:
        self.resolution = resolution
        self.channels = channels

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape of the images themselves; another resolution is refused."""
        if resolution != self.resolution:
            raise InputError(
                f"images of {resolution} px for a diffusion model of {self.resolution} px without "
                f"an autoencoder; choose images of {self.resolution} px or another model"
            )
        return (self.channels, resolution, resolution)

    def encode(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return ``2x - 1``; nothing is drawn."""
        if tuple(images.shape[1:]) != (self.channels, self.resolution, self.resolution):
            raise InputError(
                f"images of shape {tuple(images.shape[1:])} for a diffusion model of "
                f"{self.channels} channels and {self.resolution} px; choose a model that fits"
            )
        return images.detach() * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``(x + 1) / 2``."""
        return (latents + 1) / 2

    def identity(self) -> str:
        """Return the shape in words."""
        return f"pixels of {self.channels}x{self.resolution}x{self.resolution}"


class AutoencoderCodec:
    """Latents drawn from an ``AutoencoderKL``'s posterior, times its ``scaling_factor``.

    Args:
        autoencoder: The autoencoder; its weights are frozen.
        precision: "32-true" or "bf16-mixed" (autocast; latents and images stay float32).
        chunk: Images encoded or decoded at once; decides memory only.

    Raises:
        InputError: If ``precision`` is unknown or ``chunk`` is not positive.
    """

    def __init__(
        self, autoencoder: nn.Module, *, precision: str = "32-true", chunk: int = 16
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
        if chunk < 1:
            raise InputError(f"chunk={chunk} images at once; choose 1 or more")
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.precision = precision
        self.chunk = chunk
        self._identity: str | None = None

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape after all halvings of the encoder."""
        config = self.autoencoder.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        if resolution < factor or resolution % factor:
            raise InputError(
                f"images of {resolution} px do not fit an autoencoder that makes {factor} pixels "
                f"one; choose a resolution that {factor} divides"
            )
        return (config.latent_channels, resolution // factor, resolution // factor)

    @torch.no_grad()
    def encode(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a draw from the posterior of each image, in the denoiser's scale.

        The noise of all images is drawn first, on the generator's device, so that neither chunks
        nor device change it.

        Args:
            images: ``(n, channels, H, W)`` in unit range.
            generator: Draws the noise.

        Returns:
            ``(n, ch, h, w)`` latents.

        Raises:
            InputError: If the images do not fit the autoencoder.
        """
        channels = self.autoencoder.config.in_channels
        if images.shape[1] != channels or images.shape[2] != images.shape[3]:
            raise InputError(
                f"images of shape {tuple(images.shape[1:])} for an autoencoder of {channels} "
                f"channels and square images; choose an autoencoder that fits"
            )
        shape = (len(images), *self.latent_shape(images.shape[-1]))
        noise = torch.randn(shape, generator=generator, device=generator.device)
        noise = noise.to(images.device, images.dtype)
        latents = []
        for some, its_noise in zip(images.split(self.chunk), noise.split(self.chunk), strict=True):
            with self._autocast(images):
                posterior = self.autoencoder.encode(some * 2 - 1).latent_dist
            latents.append(posterior.mean + posterior.std * its_noise)
        return torch.cat(latents).to(images.dtype) * self.autoencoder.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of some latents.

        Args:
            latents: ``(n, ch, h, w)`` in the denoiser's scale.

        Returns:
            ``(n, channels, H, W)`` in unit range, not clamped, differentiable.
        """
        images = []
        for some in (latents / self.autoencoder.config.scaling_factor).split(self.chunk):
            with self._autocast(latents):
                images.append(self.autoencoder.decode(some).sample.to(latents.dtype))
        return (torch.cat(images) + 1) / 2

    def identity(self) -> str:
        """Return the digest of the autoencoder; computed once."""
        if self._identity is None:
            self._identity = identity_of(self.autoencoder)
        return self._identity

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(
            like.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        )
