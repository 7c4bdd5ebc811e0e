"""Frequencies that are learned to tell real from synthetic features: NCFM's sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geodm_lightning.types import InputError

_NUM_LAYERS = 3  # NCFM
_SLOPE = 0.2  # of the leaky ReLU; NCFM


class FrequencySampler(nn.Module):
    """Networks from Gaussian noise to frequencies, one for each block of coordinates.

    Each is three times linear, batch normalisation and leaky ReLU, the last ReLU being a
    tanh. Whoever holds it trains it by gradient ascent on the loss the images descend.
    That NCFM samples so is known, one network for each factor of a product is inferred.

    Three things differ from NCFM's released code. It always emits 64 frequencies of which 4
    are distinct, here every row is a frequency of its own. It ascends in a second pass over
    the images after their step, here images and sampler may step on one pass. And
    normalisation is by the rows of the draw alone: there are no running statistics, so a
    resumed run has nothing to lose, and processes with one generator see one draw.

    Args:
        widths: Width of each block, in the order of :meth:`ProductManifold.embed`: features
            ``d`` for the flat and the hyperbolic factor, ``d + 1`` for a sphere.
        generator: Source of the initial weights, on the CPU; PyTorch's default distribution.

    Raises:
        InputError: If there is no block or a width is below 1.

    References:
        Wang et al., "Dataset distillation with neural characteristic function", 2025.
    """

    def __init__(self, widths: Sequence[int], *, generator: torch.Generator) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise InputError(f"widths must be positive, one for each block, got {list(widths)}")
        self.widths = tuple(widths)
        self.networks = nn.ModuleList(_network(width) for width in self.widths)
        self.reset_parameters(generator)

    def forward(self, noise: Tensor) -> Tensor:
        """Turn noise into frequencies.

        Args:
            noise: Standard Gaussian rows, ``(num_frequencies, sum of widths)``.

        Returns:
            Frequencies of the same shape, dtype and device, each entry in (-1, 1).

        Raises:
            InputError: If there are fewer than two rows, or their width does not fit.
        """
        num_frequencies, width = noise.shape
        if num_frequencies < 2:
            raise InputError(
                f"a frequency sampler normalises over its frequencies and needs at least 2, "
                f"got {num_frequencies}; raise num_frequencies"
            )
        if width != sum(self.widths):
            raise InputError(
                f"the frequency sampler was built for blocks of widths {list(self.widths)}, the "
                f"coordinates are {width} wide; build it for the geometry in use"
            )
        weight = next(self.parameters())
        blocks = noise.to(weight).split(self.widths, dim=-1)
        drawn = [network(block) for network, block in zip(self.networks, blocks, strict=True)]
        return torch.cat(drawn, dim=-1).to(noise)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw U(-1/sqrt(fan_in), 1/sqrt(fan_in)) from ``generator``, in place."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    drawn = torch.rand(parameter.shape, generator=generator).to(parameter)
                    parameter.data.copy_((2 * drawn - 1) * bound)


def _network(width: int) -> nn.Sequential:
    """Three layers of ``width`` units; batch normalisation keeps no running statistics."""
    layers: list[nn.Module] = []
    for i in range(_NUM_LAYERS):
        last = i == _NUM_LAYERS - 1
        layers += [
            nn.Linear(width, width),
            nn.BatchNorm1d(width, track_running_stats=False),
            nn.Tanh() if last else nn.LeakyReLU(_SLOPE),
        ]
    return nn.Sequential(*layers)
