"""A small vision transformer whose patches fit the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geodm_lightning.networks.network import Network
from geodm_lightning.types import InputError

FEWEST = 7  # patches a side: 4 px ones of 28 and 32 px images, 16 px ones of 128


def patch_for(resolution: int) -> int:
    """Return the largest patch that divides an image and leaves at least seven a side.

    Args:
        resolution: Height and width of the images in pixels.

    Example:
        >>> [patch_for(resolution) for resolution in (8, 28, 32, 64, 128, 224)]
        [1, 4, 4, 8, 16, 32]
    """
    fitting = [p for p in range(1, resolution // FEWEST + 1) if resolution % p == 0]
    return max(fitting, default=1)


class ViT(Network):
    """timm's vision transformer: a class token, pre-norm blocks, no dropout.

    The sizes are those of ViT-Tiny with half its depth, a choice of ours: peers of the DM family
    judge by no transformer.

    Args:
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the initial weights.
        depth: Number of blocks.
        width: Length of a token; a head has 64 of it.
        patch: Height and width of a patch in pixels; chosen by :func:`patch_for` if ``None``.

    Raises:
        InputError: If the patch does not divide the images, or 64 not the width.

    References:
        Dosovitskiy et al., "An image is worth 16×16 words", 2021.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        resolution: int,
        generator: torch.Generator,
        depth: int = 6,
        width: int = 192,
        patch: int | None = None,
    ) -> None:
        super().__init__()
        patch = patch_for(resolution) if patch is None else patch
        if patch < 1 or resolution % patch:
            raise InputError(f"ViT patches of {patch} px do not divide {resolution} px images")
        if width < 64 or width % 64 or depth < 1:
            raise InputError(f"ViT needs blocks and a width in steps of 64: {depth}, {width}")
        self.num_classes = num_classes
        self.num_features = width
        self._arguments: dict[str, Any] = {
            "img_size": resolution,
            "patch_size": patch,
            "in_chans": channels,
            "num_classes": num_classes,
            "embed_dim": width,
            "depth": depth,
            "num_heads": width // 64,
        }
        self.model: Any = self._fresh(generator)

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to their class tokens ``(n, d)``."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""
        return self.model(images)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Build the model anew from ``generator`` and copy its weights in place."""
        self.model.load_state_dict(self._fresh(generator).state_dict())

    def _fresh(self, generator: torch.Generator) -> Any:
        """Build timm's model, which draws from the global generator: seeded here, and put back."""
        from timm.models.vision_transformer import VisionTransformer

        seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return VisionTransformer(**self._arguments)
