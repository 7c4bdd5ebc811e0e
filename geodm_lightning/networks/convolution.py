"""The convolution of our networks: C kernels on a CPU where these are faster, else PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geodm_lightning.native import library
from geodm_lightning.networks import columns, winograd
from geodm_lightning.types import InputError

Algorithm = Literal["auto", "direct"]
ALGORITHMS = ("auto", "direct")
# From where Winograd's measured faster, see benchmarks/convolution.py:
FEW = 4  # channels in, up to which the pixels under a kernel are gathered
FEWEST = 32  # tiles of all images together, for which the kernels are transformed
MOST_PADDING = 1.5  # pixels of the tiles for one of the result


class Convolution(nn.Conv2d):
    """A two-dimensional convolution with the parameters of ``nn.Conv2d``.

    The algorithm follows from shapes, device and precision alone, never from a timing, so a run
    that is resumed goes on with the same bits.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel_size: Height and width of the kernels in pixels.
        algorithm: ``"auto"`` takes Winograd's where :func:`takes_winograd` says so,
            ``"direct"`` PyTorch's everywhere.
        channels_last: Leave the channels of Winograd's result together in memory, for what
            follows to take; otherwise they lie as those of the maps that came in.
        device: Where the parameters live; the CPU if None.
        options: Further keywords of ``nn.Conv2d``.

    Raises:
        InputError: If the algorithm is unknown.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        algorithm: Algorithm = "auto",
        channels_last: bool = False,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise InputError(f"convolution must be auto or direct, got {algorithm!r}")
        super().__init__(inputs, outputs, kernel_size, device=device, **options)
        self.algorithm = algorithm
        self.channels_last = channels_last

    @property
    def may_take_winograd(self) -> bool:
        """Whether the layer is simple and of full vectors of channels, in and out."""
        is_full = self.in_channels % library.MULTIPLE == self.out_channels % library.MULTIPLE == 0
        return self._is_simple and is_full and self.padding[0] in (0, 1, 2)

    @property
    def may_take_columns(self) -> bool:
        """Whether the layer is simple and leads from few channels to full vectors of them."""
        return (
            self._is_simple
            and self.in_channels <= FEW
            and self.out_channels % library.MULTIPLE == 0
        )

    @property
    def _is_simple(self) -> bool:
        """Whether the layer is ungrouped, 3×3, of stride 1 and padded alike with zeros."""
        return (
            self.algorithm == "auto"
            and self.kernel_size == (3, 3)
            and self.stride == self.dilation == (1, 1)
            and not isinstance(self.padding, str)
            and self.padding[0] == self.padding[1]
            and self.padding_mode == "zeros"
            and self.groups == 1
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(n, C, H, W)`` to ``(n, K, h, w)``."""
        if takes_columns(self, input):
            return columns.convolve(input, self.weight, self.bias, padding=int(self.padding[0]))
        if not takes_winograd(self, input):
            return super().forward(input)
        result = winograd.convolve(input, self.weight, self.bias, padding=int(self.padding[0]))
        keeps = not self.channels_last and input.is_contiguous()
        return result.contiguous() if keeps else result


def takes_winograd(convolution: Convolution, maps: Tensor) -> bool:
    """Whether Winograd's convolution is as good as PyTorch's here, and faster.

    It is for 3×3 kernels at stride 1 between many channels, in float32 on a CPU, where tiles
    are many and not mostly padding. The transforms of ``torch.func`` and autocast take PyTorch's.
    """
    if not (convolution.may_take_winograd and is_plain(maps, convolution.weight)):
        return False
    padding = int(convolution.padding[0])
    sides = [side + 2 * padding - 2 for side in maps.shape[2:]]
    return is_worth_tiling(len(maps), sides) and library.is_able()


def takes_columns(convolution: Convolution, maps: Tensor) -> bool:
    """Whether a convolution of few channels is gathered and multiplied in float32 on a CPU."""
    return (
        convolution.channels_last
        and convolution.may_take_columns
        and is_plain(maps, convolution.weight)
        and min(maps.shape[2:]) + 2 * int(convolution.padding[0]) >= 3
        and library.is_able()
    )


def is_worth_tiling(num_images: int, sides: Sequence[int]) -> bool:
    """Whether the tiles of a result of such height and width are many and not mostly padding."""
    if min(sides) < 1:
        return False
    num_pixels = winograd.pixels_of_tiles(sides)
    is_filled = num_pixels <= MOST_PADDING * sides[0] * sides[1]
    return is_filled and num_images * num_pixels >= FEWEST * winograd.TILE**2


def is_plain(maps: Tensor, weight: Tensor) -> bool:
    """Whether both are float32 on a CPU, and no transform or autocast is at work."""
    return (
        not torch.compiler.is_compiling()
        and maps.device.type == weight.device.type == "cpu"
        and maps.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )
