"""VGG-11 with instance norm, on which sets made for a ConvNet are tested."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from geodm_lightning.networks.convolution import Convolution
from geodm_lightning.networks.network import BlockNetwork
from geodm_lightning.types import InputError

GREY_PADDING = 3  # of the first convolution of a 1-channel network: 28 px become a 32 px map
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG(BlockNetwork):
    """Eight 3×3 convolutions with instance norm and ReLU in five stages, each halved by maxima.

    Instance norm is a group norm with as many groups as channels. What is left of the image is
    averaged: one pixel of 32, which makes it the network of DC and DM; how they would take larger
    images is inferred.

    Args:
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the initial weights.

    Raises:
        InputError: If the maps of the last stage would be a single pixel, of which instance norm
            leaves nothing.

    Example:
        >>> network = VGG(num_classes=10, channels=3, resolution=32,
        ...               generator=torch.Generator().manual_seed(0))
        >>> network.num_features, sum(p.numel() for p in network.parameters())
        (512, 9231114)

    References:
        Zhao and Bilen, "Dataset condensation with gradient matching", 2021.
    """

    def __init__(
        self, *, num_classes: int, channels: int, resolution: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        first_padding = GREY_PADDING if channels == 1 else 1
        if (resolution + 2 * first_padding - 2) >> 4 < 2:
            raise InputError(
                f"VGG-11 shrinks {resolution} px images to one pixel, of which instance norm "
                "leaves nothing; use images of 32 px or more (28 where grey)"
            )
        self.num_classes = num_classes
        self.num_features = STAGES[-1][-1]
        blocks: list[nn.Module] = []
        inputs, padding = channels, first_padding
        for stage in STAGES:
            for outputs in stage:
                blocks += [
                    skip_init(Convolution, inputs, outputs, 3, padding=padding),
                    nn.GroupNorm(outputs, outputs),
                    nn.ReLU(inplace=True),
                ]
                inputs, padding = outputs, 1
            blocks.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = skip_init(nn.Linear, self.num_features, num_classes)
        self.reset_parameters(generator)

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to the means ``(n, d)`` of their last maps."""
        return self.blocks(images).mean((2, 3))
