"""ResNets with instance norm, as hard-label evaluations of distilled sets train them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from geodm_lightning.networks.convolution import Convolution
from geodm_lightning.networks.network import Network, fill_uniform
from geodm_lightning.networks.pooling import AveragePool
from geodm_lightning.types import InputError

Shrink = Literal["stride", "average"]
SMALL, MIDDLE = 64, 128  # largest resolution of a stem that keeps it, and of one that halves it
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}  # residual blocks of each stage, by depth


class ResNet(Network):
    """Four stages of residual blocks of two 3×3 convolutions; instance norm throughout.

    Instance norm is a group norm with as many groups as channels, so the logits of an image do
    not depend on the other images of its batch. The stem keeps images of up to 64 pixels, halves
    those of up to 128 and quarters larger ones.

    Args:
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the initial weights.
        depth: 10 or 18.
        shrink: How a map is halved: ``"average"`` by 2×2 averages after a convolution of stride
            1, which is ResNetAP; ``"stride"`` by the stride of the convolution.
        width: Channels of the first stage; every further stage has twice as many.

    Raises:
        InputError: If depth or width is out of range, or the last map would be a single pixel,
            of which instance norm leaves nothing.

    Example:
        >>> network = ResNet(num_classes=10, channels=3, resolution=224, depth=10,
        ...                  shrink="average", generator=torch.Generator().manual_seed(0))
        >>> network.num_features, sum(p.numel() for p in network.parameters())
        (512, 4910922)

    References:
        Kim et al., "Dataset condensation via efficient synthetic-data parameterization", 2022;
        Gu et al., "Efficient dataset distillation via minimax diffusion", 2024.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        resolution: int,
        generator: torch.Generator,
        depth: int = 18,
        shrink: Shrink = "stride",
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise InputError(f"ResNet depth must be one of {', '.join(map(str, BLOCKS))}: {depth}")
        if width < 1:
            raise InputError(f"ResNet width must be positive, got {width}")
        if resolution // 8 < 2:
            raise InputError(
                f"ResNet shrinks {resolution} px images to one pixel, of which instance norm "
                "leaves nothing; use convnet, or images of at least 16 px"
            )
        self.num_classes = num_classes
        self.num_features = 8 * width
        self.stem = _stem(channels, width, resolution=resolution, shrink=shrink)
        blocks: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(BLOCKS[depth]):
            outputs = width << stage
            for position in range(count):
                halve = stage > 0 and position == 0
                blocks.append(Block(inputs, outputs, halve=halve, shrink=shrink))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = skip_init(nn.Linear, self.num_features, num_classes)
        self.reset_parameters(generator)

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to the means ``(n, d)`` of their last maps."""
        return self.blocks(self.stem(images)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""
        return self.classifier(self.embed(images))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw He-normal convolutions (fan out) and PyTorch's default linear layer, in place."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.weight[:, 0].numel()
                _fill_normal(layer.weight, math.sqrt(2 / fan_out), generator=generator)
            elif isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()
        bound = 1 / math.sqrt(self.num_features)
        fill_uniform(self.classifier.weight, bound, generator=generator)
        fill_uniform(self.classifier.bias, bound, generator=generator)


class Block(nn.Module):
    """Two 3×3 convolutions beside an identity, or beside a 1×1 convolution where shapes change.

    Args:
        inputs: Channels of the maps that come in.
        outputs: Channels of the maps that go out.
        halve: Whether height and width are halved.
        shrink: How.
    """

    def __init__(self, inputs: int, outputs: int, *, halve: bool, shrink: Shrink) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(inputs, outputs, 3, halve=halve and shrink == "stride"),
            nn.ReLU(inplace=True),
            *([AveragePool()] if halve and shrink == "average" else []),
            *_convolution(outputs, outputs, 3),
        )
        self.shortcut = nn.Sequential()
        if halve or inputs != outputs:
            convolution, norm = _convolution(inputs, outputs, 1, halve=shrink == "stride")
            pool = [AveragePool()] if shrink == "average" else []
            self.shortcut = nn.Sequential(convolution, *pool, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(n, inputs, h, w)`` to ``(n, outputs, h', w')``."""
        return F.relu(self.residual(maps) + self.shortcut(maps), inplace=True)


def _stem(channels: int, width: int, *, resolution: int, shrink: Shrink) -> nn.Sequential:
    large = resolution > MIDDLE
    halve = large and shrink == "stride"
    layers = [
        *_convolution(channels, width, 7 if large else 3, halve=halve),
        nn.ReLU(inplace=True),
    ]
    if resolution > SMALL and shrink == "average":
        layers += [AveragePool()] * (2 if large else 1)
    elif resolution > SMALL:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _convolution(
    inputs: int, outputs: int, size: int, *, halve: bool = False
) -> tuple[nn.Module, nn.Module]:
    convolution = skip_init(
        Convolution,
        inputs,
        outputs,
        size,
        stride=2 if halve else 1,
        padding=size // 2,
        bias=False,
    )
    return convolution, nn.GroupNorm(outputs, outputs)


def _fill_normal(parameter: Tensor, std: float, *, generator: torch.Generator) -> None:
    """Fill a tensor with N(0, std²) in place, drawn on the generator's device."""
    with torch.no_grad():
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
        parameter.copy_(values.normal_(0, std, generator=generator))
