"""The learnable images of a distilled set."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodm_lightning.data.normalise import denormalise, normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distilled.distilled_set import decode_mosaic
from geodm_lightning.types import DatasetSpec, InputError

INITIALISATIONS = ("real", "mix", "noise")
SPACES = ("normalised", "unit")


def initial_images(
    table: ImageTable,
    *,
    ipc: int,
    factor: int,
    initialisation: str,
    classes: slice,
    generator: torch.Generator,
) -> Tensor:
    """Make the images distillation starts from.

    Args:
        table: Real training images.
        ipc: Stored images per class.
        factor: Tiles per side of a stored image; only ``"mix"`` fills them one by one.
        initialisation: ``"real"`` takes real images (DM), ``"mix"`` tiles ``factor²``
            shrunken real images into each (IDC, DSDM, NCFM), ``"noise"`` is normal
            noise with the mean and deviation of the data.
        classes: Classes to return; the draw is the same whichever they are.
        generator: Source of the draw, on the CPU.

    Returns:
        Unit-range images, shape ``(classes, ipc, ch, h, w)``, on the device of ``table``.

    Raises:
        InputError: If the initialisation is unknown or a class has too few images.
    """
    spec = table.spec
    if initialisation == "noise":
        shape = (spec.num_classes, ipc, spec.channels, spec.resolution, spec.resolution)
        noise = torch.randn(shape, generator=generator)[classes]
        return denormalise(noise.to(table.labels.device), spec)
    if initialisation not in INITIALISATIONS:
        raise InputError(
            f"unknown initialisation '{initialisation}'; choose one of {', '.join(INITIALISATIONS)}"
        )
    per_image = factor**2 if initialisation == "mix" else 1
    indices = draw_exactly(table, num_per_class=ipc * per_image, generator=generator)
    images = table.gather(indices[classes])
    if per_image == 1:
        return images
    return tile_mosaic(images, factor=factor)


def draw_exactly(table: ImageTable, *, num_per_class: int, generator: torch.Generator) -> Tensor:
    """Draw image indices, the same number for each class and never fewer than asked.

    Args:
        table: Real training images.
        num_per_class: Different images to draw from every class.
        generator: Source of the draw, on the CPU.

    Returns:
        Indices, shape ``(num_classes, num_per_class)``.

    Raises:
        InputError: If the smallest class has too few images.
    """
    smallest = int(table.class_counts.min())
    if num_per_class > smallest:
        name = table.spec.class_names[int(table.class_counts.argmin())]
        raise InputError(
            f"{num_per_class} images per class were asked for, but class '{name}' of "
            f"{table.spec.name} has {smallest}; choose a smaller ipc"
        )
    return table.draw(num_per_class, generator=generator)


def tile_mosaic(images: Tensor, *, factor: int) -> Tensor:
    """Shrink images and tile ``factor²`` neighbours into one, in reading order.

    Args:
        images: Unit-range images, shape ``(C, n · factor², ch, h, w)``.
        factor: Tiles per side.

    Returns:
        Mosaics, shape ``(C, n, ch, h, w)``.
    """
    num_classes, num, channels, height, width = images.shape
    small = functional.interpolate(
        images.reshape(-1, channels, height, width),
        size=(height // factor, width // factor),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    tiles = small.reshape(
        num_classes, num // factor**2, factor, factor, channels, height // factor, width // factor
    )
    return tiles.permute(0, 1, 4, 2, 5, 3, 6).reshape(
        num_classes, num // factor**2, channels, height, width
    )


class SyntheticImages(nn.Module):
    """Learnable images of the classes one process owns.

    Args:
        initial: Unit-range images, shape ``(C, ipc, ch, h, w)``.
        spec: The data set they stand for.
        space: Where the optimiser works: ``"normalised"`` pixels without bounds (DM) or
            ``"unit"`` pixels clamped to [0, 1] after each step (NCFM).
        factor: Tiles per side of a stored image, see :func:`decode_mosaic`.

    Raises:
        InputError: If the space is unknown or the factor does not divide the resolution.
    """

    def __init__(self, initial: Tensor, *, spec: DatasetSpec, space: str, factor: int) -> None:
        super().__init__()
        if space not in SPACES:
            raise InputError(f"unknown pixel space '{space}'; choose one of {', '.join(SPACES)}")
        if factor < 1 or spec.resolution % factor:
            raise InputError(
                f"factor {factor} does not divide the {spec.resolution} pixels of {spec.name}"
            )
        self.spec = spec
        self.space = space
        self.factor = factor
        pixels = normalise(initial, spec) if space == "normalised" else initial
        self.pixels = nn.Parameter(pixels.clone())

    def forward(self, classes: slice) -> Tensor:
        """Return decoded, normalised images of ``classes``, shape ``(C, S, ch, h, w)``."""
        pixels = self.pixels[classes]
        if self.space == "unit":
            pixels = normalise(pixels, self.spec)
        return decode_mosaic(pixels, factor=self.factor)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring unit-range pixels back into [0, 1]; normalised pixels have no bounds."""
        if self.space == "unit":
            self.pixels.clamp_(0.0, 1.0)

    @torch.no_grad()
    def unit_images(self, pixels: Tensor) -> Tensor:
        """Convert pixels of the working space to unit range."""
        return denormalise(pixels, self.spec) if self.space == "normalised" else pixels.clone()
