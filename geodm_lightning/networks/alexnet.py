"""The AlexNet on which sets made for a ConvNet are tested."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import skip_init

from geodm_lightning.networks.convolution import Convolution
from geodm_lightning.networks.network import BlockNetwork
from geodm_lightning.types import InputError

GREY_PADDING = 4  # of the first convolution of a 1-channel network: 28 px become a 32 px map
LAYERS = ((128, 5, True), (192, 5, True), (256, 3, False), (192, 3, False), (192, 3, True))


class AlexNet(BlockNetwork):
    """Five convolutions with ReLU, the first two and the last followed by 2×2 maxima; one layer.

    There is no norm: the features of an image do not depend on its batch.

    Args:
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the initial weights.

    Raises:
        InputError: If the maxima leave nothing of images so small.

    Example:
        >>> network = AlexNet(num_classes=10, channels=3, resolution=32,
        ...                   generator=torch.Generator().manual_seed(0))
        >>> network.num_features, sum(p.numel() for p in network.parameters())
        (3072, 1872202)

    References:
        Zhao and Bilen, "Dataset condensation with distribution matching", 2023.
    """

    def __init__(
        self, *, num_classes: int, channels: int, resolution: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        first_padding = GREY_PADDING if channels == 1 else 2
        side = (resolution + 2 * first_padding - 4) >> 3
        if side < 1:
            raise InputError(f"AlexNet halves {resolution} px images to nothing; use 8 px or more")
        self.num_classes = num_classes
        self.num_features = LAYERS[-1][0] * side**2
        blocks: list[nn.Module] = []
        inputs, padding = channels, first_padding
        for outputs, size, halve in LAYERS:
            pad = padding if not blocks else size // 2
            blocks += [
                skip_init(Convolution, inputs, outputs, size, padding=pad),
                nn.ReLU(inplace=True),
            ]
            blocks += [nn.MaxPool2d(2)] if halve else []
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = skip_init(nn.Linear, self.num_features, num_classes)
        self.reset_parameters(generator)
