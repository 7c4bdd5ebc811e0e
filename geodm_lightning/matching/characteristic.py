"""Matching of characteristic functions: NCFM and its product form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from geodm_lightning.geometry.embedding import Embedding
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.sampler import FrequencySampler
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError

_FLOOR = 1e-12  # under both square roots; NCFM clamps its phase term there


class CharacteristicMatching(nn.Module):
    r"""Distance between the characteristic functions of real and synthetic features.

    With :math:`\Phi(t) = mean_j \exp(i\langle t, x_j\rangle)`, frequencies
    :math:`t \sim N(0, I)` and :math:`\Delta = |\Phi_r| - |\Phi_s|`,

    .. math::
        scale \cdot mean_t \sqrt{amplitude \cdot \Delta^2
            + phase \cdot (|\Phi_r - \Phi_s|^2 - \Delta^2)},

    which is NCFM's loss with its default Gaussian frequencies; the phase term is NCFM's
    :math:`2(|\Phi_r||\Phi_s| - Re\,\Phi_r Re\,\Phi_s - Im\,\Phi_r Im\,\Phi_s)`, written so
    that nothing large is subtracted. A sample :math:`x_j` is the concatenation of its
    weighted coordinates on every factor, normalised to length 1 as NCFM does. That NCFM is
    GeoDM's objective is known; where it acts on the product is inferred.

    Args:
        num_frequencies: Frequencies drawn at every call, shared by all classes.
        amplitude: Weight of the amplitude term (diversity).
        phase: Weight of the phase term (realism).
        scale: Factor on the loss; 300 in NCFM's released code.
        sampler: Network that turns Gaussian frequencies into learned ones; ``None``, NCFM's
            default, leaves them as they are. Its parameters are to be ascended.

    Raises:
        InputError: If a number is negative or not finite, there is no frequency, or only one
            for a sampler.

    References:
        Wang et al., "Dataset distillation with neural characteristic function", 2025.
    """

    min_synthetic: ClassVar[int] = 1

    def __init__(
        self,
        num_frequencies: int = 4096,
        amplitude: float = 0.5,
        phase: float = 0.5,
        scale: float = 300.0,
        sampler: FrequencySampler | None = None,
    ) -> None:
        super().__init__()
        fewest = 1 if sampler is None else 2  # a sampler normalises over its frequencies
        if num_frequencies < fewest:
            raise InputError(f"num_frequencies must be at least {fewest}, got {num_frequencies}")
        for name, value in (("amplitude", amplitude), ("phase", phase), ("scale", scale)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must not be negative, got {value}")
        self.num_frequencies = num_frequencies
        self.amplitude = amplitude
        self.phase = phase
        self.scale = scale
        self.sampler = sampler

    def ascending_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that raise the loss while all others lower it."""
        return [] if self.sampler is None else list(self.sampler.parameters())

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to NCFM's: 1, whatever the network."""
        return torch.ones_like(features.norm)

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Source of the frequencies, on any device.

        Returns:
            Losses of shape ``(C,)``, without unit.
        """
        points = geometry.embeddings(features.real)
        frequencies = self._frequencies(points, generator)
        real = _characteristic(points, frequencies)
        synthetic = _characteristic(geometry.embeddings(features.synthetic), frequencies)

        amplitude_gap = (_modulus(real) - _modulus(synthetic)).square()
        phase_gap = (real - synthetic).square().sum(-2) - amplitude_gap
        squared = self.amplitude * amplitude_gap + self.phase * phase_gap.clamp(min=_FLOOR)
        return self.scale * squared.clamp(min=_FLOOR * _FLOOR).sqrt().mean(-1)

    def _frequencies(
        self, points: Sequence[Embedding], generator: torch.Generator
    ) -> Sequence[Tensor]:
        """Frequencies ``(num_frequencies, width)`` of each block of coordinates."""
        widths = [block.width for block in points]
        blocks = draw_frequencies(
            widths, self.num_frequencies, like=points[0].tangent, generator=generator
        )
        if self.sampler is None:
            return blocks
        return self.sampler(torch.cat(blocks, dim=-1)).split(widths, dim=-1)


def draw_frequencies(
    widths: Sequence[int], num_frequencies: int, *, like: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """Draw standard Gaussian frequencies, one block of coordinates after the other.

    A product whose first block is flat therefore shares that block's frequencies with the
    flat space alone.

    Args:
        widths: Width of each block.
        num_frequencies: How many frequencies.
        like: Tensor whose dtype and device are taken.
        generator: Source of the draw; it may be on another device.

    Returns:
        One tensor ``(num_frequencies, width)`` for each block.
    """
    draw = partial(torch.randn, generator=generator, device=generator.device, dtype=like.dtype)
    return [draw(num_frequencies, width).to(like.device) for width in widths]


def _characteristic(points: Sequence[Embedding], frequencies: Sequence[Tensor]) -> Tensor:
    """Real and imaginary part of the characteristic function, ``(..., 2, num_frequencies)``."""
    length = torch.linalg.vector_norm(torch.stack([p.length() for p in points], dim=-1), dim=-1)
    shrink = 1 / length.clamp(min=_FLOOR)
    products = [p.times(shrink).inner(t) for p, t in zip(points, frequencies, strict=True)]
    angles = sum(products[1:], start=products[0])
    return cast("Tensor", _MeanWave.apply(angles))


class _MeanWave(torch.autograd.Function):
    """Mean cosine and sine of angles ``(..., n, m)``: ``(..., 2, m)``.

    The two are each other's slopes: kept from the way there, none is computed on the way back.
    """

    @staticmethod
    def forward(ctx: Any, angles: Tensor) -> Tensor:
        cos, sin = angles.cos(), angles.sin()
        ctx.save_for_backward(cos, sin)
        return torch.stack([cos.mean(-2), sin.mean(-2)], dim=-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        cos, sin = ctx.saved_tensors
        real, imaginary = (gradient / cos.shape[-2]).split(1, dim=-2)
        return (cos * imaginary).addcmul_(sin, real, value=-1)


def _modulus(characteristic: Tensor) -> Tensor:
    """Absolute value of ``(..., 2, num_frequencies)``, with a finite gradient at zero."""
    return characteristic.square().sum(-2).clamp(min=_FLOOR).sqrt()
