"""ConvNet-D3 to D6 of the distillation literature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from geodm_lightning.networks import blocks
from geodm_lightning.networks.convolution import Algorithm, Convolution
from geodm_lightning.networks.fused import norm_relu_pool
from geodm_lightning.networks.network import BlockNetwork
from geodm_lightning.networks.pooling import AveragePool
from geodm_lightning.types import InputError

DEPTHS = range(3, 7)
LAYERS = (Convolution, nn.GroupNorm, nn.ReLU, AveragePool)  # of a block
GREY_PADDING = 3  # of the first convolution of a 1-channel network: 28 px become a 32 px map


def depth_for(resolution: int) -> int:
    """Return the customary depth: 3 up to 32 px, 4 up to 64, 5 up to 128, 6 above.

    Args:
        resolution: Height and width of the images in pixels.

    Example:
        >>> [depth_for(resolution) for resolution in (28, 32, 64, 128, 224)]
        [3, 3, 4, 5, 6]
    """
    return next((depth for depth, upper in ((3, 32), (4, 64), (5, 128)) if resolution <= upper), 6)


class ConvNet(BlockNetwork):
    """Blocks of 3×3 convolution, instance norm, ReLU and 2×2 average pooling; a linear layer.

    Instance norm is a group norm with as many groups as channels, so the features of an image
    do not depend on the other images of its batch.

    Args:
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the initial weights.
        depth: Number of blocks, 3 to 6; chosen by :func:`depth_for` if ``None``.
        width: Channels of every block.
        convolution: ``"auto"`` for the fastest way on a CPU, ``"direct"`` for layer after layer
            with PyTorch's convolution.

    Raises:
        InputError: If depth, width or convolution is out of range or the map would vanish.

    Example:
        >>> network = ConvNet(num_classes=10, channels=3, resolution=32,
        ...                   generator=torch.Generator().manual_seed(0))
        >>> network.num_features, sum(p.numel() for p in network.parameters())
        (2048, 320010)

    References:
        Gidaris and Komodakis, "Dynamic few-shot visual learning without forgetting", 2018;
        Zhao and Bilen, "Dataset condensation with distribution matching", 2023.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        resolution: int,
        generator: torch.Generator,
        depth: int | None = None,
        width: int = 128,
        convolution: Algorithm = "auto",
    ) -> None:
        super().__init__()
        depth = depth_for(resolution) if depth is None else depth
        padding = GREY_PADDING if channels == 1 else 1
        final_side = (resolution + 2 * padding - 2) >> depth if depth in DEPTHS else 0
        _check_shape(depth, width=width, resolution=resolution, final_side=final_side)
        self.num_classes = num_classes
        self.num_features = width * final_side**2
        layers: list[nn.Module] = []
        options = {"algorithm": convolution, "channels_last": True}
        for inputs, pad in [(channels, padding)] + [(width, 1)] * (depth - 1):
            layers += [
                skip_init(Convolution, inputs, width, 3, padding=pad, **options),
                nn.GroupNorm(width, width),
                nn.ReLU(inplace=True),
                AveragePool(),
            ]
        self.blocks = nn.Sequential(*layers)
        self.classifier = skip_init(nn.Linear, self.num_features, num_classes)
        self.reset_parameters(generator)

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to flattened last maps ``(n, d)``."""
        pairs = self._pairs()
        if not pairs:
            return super().embed(images)
        if blocks.can_embed(pairs, images):
            return blocks.embed(pairs, images).flatten(1)
        for convolution, norm in pairs:
            images = norm_relu_pool(convolution(images), norm.weight, norm.bias, eps=norm.eps)
        return images.flatten(1)

    def _pairs(self) -> list[blocks.Block]:
        """Return convolutions with their norms; none where layers must run one after the other.

        They must where that was asked for, where one was replaced, or where someone listens.
        """
        pairs: list[Any] = []
        for layers in zip(*(iter(self.blocks),) * len(LAYERS), strict=True):
            convolution, norm, *_ = layers
            if any(type(layer) is not kind for layer, kind in zip(layers, LAYERS, strict=True)):
                return []
            if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
                return []
            if convolution.algorithm == "direct":
                return []
            pairs.append((convolution, norm))
        return pairs


def _check_shape(depth: int, *, width: int, resolution: int, final_side: int) -> None:
    if depth not in DEPTHS:
        raise InputError(f"ConvNet depth must be {DEPTHS.start} to {DEPTHS.stop - 1}, got {depth}")
    if width < 1:
        raise InputError(f"ConvNet width must be positive, got {width}")
    if final_side < 1:
        raise InputError(
            f"ConvNet depth {depth} halves {resolution} px images to nothing; "
            f"use a smaller depth (3 to 6) or a larger resolution"
        )
