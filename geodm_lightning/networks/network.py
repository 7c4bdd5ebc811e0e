"""What every network offers, and the default initialisation drawn from a generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """An image classifier that also hands out the features before its last layer.

    Attributes:
        num_classes: Number of logits.
        num_features: Length ``d`` of a feature vector.
    """

    num_classes: int
    num_features: int

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to features ``(n, d)``."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights in place.

        The weights are drawn on the generator's device and copied where they live, so a CPU
        generator gives the same network on every device.

        Args:
            generator: Source of the draw; the same state gives the same weights.
        """


class BlockNetwork(Network):
    """Blocks whose last maps, flattened, are the features of a linear layer.

    Attributes:
        blocks: Maps images ``(n, ch, h, w)`` to the last maps.
        classifier: Maps features ``(n, d)`` to logits ``(n, num_classes)``.
    """

    blocks: nn.Sequential
    classifier: nn.Linear

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to flattened last maps ``(n, d)``."""
        return self.blocks(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""
        return self.classifier(self.embed(images))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw PyTorch's default initialisation from ``generator``, in place."""
        initialise_as_torch(self, generator=generator)


def fill_uniform(parameter: Tensor, bound: float, *, generator: torch.Generator) -> None:
    """Fill a tensor with U(-bound, bound) in place, drawn on the generator's device.

    Its numbers do not depend on where in memory they lie.

    Args:
        parameter: Tensor of any shape and layout on any device.
        bound: Half width of the interval.
        generator: Source of the draw.
    """
    with torch.no_grad():
        if generator.device.type == parameter.device.type and parameter.is_contiguous():
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            values = torch.empty(
                parameter.shape, dtype=parameter.dtype, device=generator.device
            ).uniform_(-bound, bound, generator=generator)
            parameter.copy_(values)


def initialise_as_torch(module: nn.Module, *, generator: torch.Generator) -> None:
    """Give convolution, linear and group-norm layers PyTorch's default initialisation.

    Weights are Kaiming-uniform with ``a = sqrt(5)``, which is U(-1/sqrt(fan_in), 1/sqrt(fan_in)),
    as are biases; norm layers start at weight 1 and bias 0. Other layers are left alone.

    Args:
        module: Module whose layers are initialised in place.
        generator: Source of the draw.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            fill_uniform(layer.weight, bound, generator=generator)
            if layer.bias is not None:
                fill_uniform(layer.bias, bound, generator=generator)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()
