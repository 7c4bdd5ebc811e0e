"""All images of one split, sorted by class: gather any of them, draw some of every class."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from typing_extensions import Self

from geodm_lightning.types import DatasetSpec, InputError, LabelledImages


class ImageTable(Protocol):
    """One split of a data set; images are sorted by class.

    Attributes:
        spec: The data set.
        labels: ``(N,)`` int64 class indices on the device, ascending.
        class_counts: ``(C,)`` int64 images per class on the CPU.
        device: Where labels are and where :meth:`gather` puts images.
    """

    spec: DatasetSpec
    labels: Tensor
    class_counts: Tensor
    device: torch.device

    def __len__(self) -> int:
        """Return the number of images."""

    def to(self, device: torch.device | str) -> ImageTable:
        """Make ``device`` the place of labels and images; return the table itself."""

    def gather(self, indices: Tensor) -> Tensor:
        """Return unit-range images ``indices.shape + (ch, h, w)`` on the device."""

    def draw(self, num_per_class: int, *, generator: torch.Generator) -> Tensor:
        """Return ``(C, R)`` indices of images drawn without replacement from every class."""

    def head(self, num_per_class: int) -> ImageTable:
        """Return a table of the first images of every class."""

    def select(self, indices: Tensor) -> ImageTable:
        """Return a table of some of the images."""


class _SortedTable(ABC):
    """Labels sorted by class, and the draw over them, which both kinds of table share."""

    def __init__(self, labels: Tensor, spec: DatasetSpec) -> None:
        self.spec = spec
        self.labels = labels
        self.class_counts = torch.bincount(labels, minlength=spec.num_classes)
        self.device = torch.device("cpu")
        self._offsets = self.class_counts.cumsum(0) - self.class_counts

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def _pixels(self, indices: Tensor) -> Tensor:
        """Return unit-range images ``(n, ch, h, w)`` of flat ``indices`` on the device."""

    @abstractmethod
    def _keep(self, indices: Tensor) -> None:
        """Forget all pixels but those of flat ``indices``, on the CPU."""

    def head(self, num_per_class: int) -> Self:
        """Return a table of the first ``num_per_class`` images of every class, as in a dry run.

        A class with fewer keeps all of its own.
        """
        position = torch.arange(len(self)) - self._offsets.repeat_interleave(self.class_counts)
        return self.select((position < num_per_class).nonzero().flatten())

    def select(self, indices: Tensor) -> Self:
        """Return a table of some of the images; this table keeps all of its own.

        Args:
            indices: ``(n,)`` which of them, ascending, on the CPU.
        """
        table = copy.copy(self)
        table.labels = self.labels[indices.to(self.device)]
        table.class_counts = torch.bincount(table.labels.cpu(), minlength=self.spec.num_classes)
        table._offsets = table.class_counts.cumsum(0) - table.class_counts
        table._keep(indices)
        return table

    def gather(self, indices: Tensor) -> Tensor:
        """Return images by index.

        Args:
            indices: int64 indices of any shape, on any device.

        Returns:
            Unit-range float32 images of shape ``indices.shape + (ch, h, w)`` on :attr:`device`.
        """
        images = self._pixels(indices.flatten())
        return images.reshape(*indices.shape, *images.shape[1:])

    def draw(self, num_per_class: int, *, generator: torch.Generator) -> Tensor:
        """Draw images of every class uniformly and without replacement.

        Every image gets a random key; the ``R`` largest keys of a class win. All classes are
        drawn at once, whatever their sizes.

        Args:
            num_per_class: Images wanted per class.
            generator: CPU generator.

        Returns:
            Indices ``(C, R)`` on the CPU, ``R`` being ``num_per_class`` or, if smaller, the size
            of the smallest class.

        Raises:
            InputError: If ``num_per_class`` is not positive.
        """
        if num_per_class < 1:
            raise InputError(f"images drawn per class must be positive, got {num_per_class}")
        num_drawn = min(num_per_class, int(self.class_counts.min()))
        positions = torch.arange(int(self.class_counts.max()))
        keys = torch.rand(len(self.class_counts), len(positions), generator=generator)
        keys.masked_fill_(positions >= self.class_counts[:, None], -1.0)
        return keys.topk(num_drawn, dim=1).indices + self._offsets[:, None]


class TensorTable(_SortedTable):
    """A split held in memory as 8-bit pixels, on the CPU or resident on an accelerator.

    Args:
        data: uint8 images ``(N, ch, h, w)`` with labels ``(N,)`` in any order; every class of
            ``spec`` occurs.
        spec: The data set.
        max_value: Pixel value that means 1.0.
    """

    def __init__(self, data: LabelledImages, spec: DatasetSpec, *, max_value: int = 255) -> None:
        order = data.labels.argsort(stable=True)
        super().__init__(data.labels[order], spec)
        self._images = data.images[order]
        self._max_value = max_value

    def to(self, device: torch.device | str) -> TensorTable:
        """Move labels and pixels to ``device`` in place; the draw stays on the CPU."""
        self.device = torch.device(device)
        self.labels = self.labels.to(self.device)
        self._images = self._images.to(self.device)
        return self

    def _pixels(self, indices: Tensor) -> Tensor:
        chosen = self._images.index_select(0, indices.to(self.device, non_blocking=True))
        return chosen.to(torch.float32).div_(self._max_value)

    def _keep(self, indices: Tensor) -> None:
        self._images = self._images[indices.to(self.device)]


class FolderTable(_SortedTable):
    """A split that lies on disk as image files, decoded when asked for.

    Images are resized so that their shorter side is the resolution, then cropped at the centre.
    Decoded images are kept, as 8-bit pixels in memory, until ``cache_bytes`` are full.

    Args:
        paths: N image files, in the order of ``labels``.
        labels: ``(N,)`` int64 class indices in any order; every class of ``spec`` occurs.
        spec: The data set; its resolution and channels are those of the gathered images.
        num_threads: Threads that decode.
        cache_bytes: Memory for decoded images; 0 decodes anew every time.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        spec: DatasetSpec,
        *,
        num_threads: int = 8,
        cache_bytes: int = 2**31,
    ) -> None:
        order = labels.argsort(stable=True)
        super().__init__(labels[order], spec)
        self._paths = [paths[index] for index in order.tolist()]
        self._num_threads = num_threads
        image_bytes = spec.channels * spec.resolution**2
        self._cache: dict[int, Tensor] = {}
        self._cache_size = cache_bytes // image_bytes

    def to(self, device: torch.device | str) -> FolderTable:
        """Move labels to ``device`` in place and let gathered images be put there."""
        self.device = torch.device(device)
        self.labels = self.labels.to(self.device)
        return self

    def _pixels(self, indices: Tensor) -> Tensor:
        chosen = indices.tolist()
        unknown = sorted({index for index in chosen if index not in self._cache})
        decoded = dict(zip(unknown, self._decode(unknown), strict=True))
        pixels = [decoded[i] if i in decoded else self._cache[i] for i in chosen]
        room = max(self._cache_size - len(self._cache), 0)
        self._cache.update((index, decoded[index]) for index in unknown[:room])
        return torch.stack(pixels).to(self.device).to(torch.float32).div_(255)

    def _keep(self, indices: Tensor) -> None:
        self._paths = [self._paths[index] for index in indices.tolist()]
        self._cache = {}

    def _decode(self, indices: list[int]) -> list[Tensor]:
        paths = [self._paths[index] for index in indices]
        with ThreadPoolExecutor(self._num_threads) as pool:
            shape = (self.spec.channels, self.spec.resolution)
            return list(pool.map(lambda path: decode_image(path, *shape), paths))


def decode_image(path: Path, channels: int, resolution: int) -> Tensor:
    """Read an image file, resize its shorter side and crop the centre.

    Args:
        path: Any format Pillow reads.
        channels: 3 for colour, 1 for grey.
        resolution: Height and width of the result in pixels.

    Returns:
        uint8 pixels ``(channels, resolution, resolution)``.

    Raises:
        InputError: If the file is missing or damaged.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path) as file:
            file.draft(mode, (resolution, resolution))
            scale = resolution / min(file.size)
            size = tuple(max(resolution, math.floor(side * scale + 0.5)) for side in file.size)
            image = file.convert(mode).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError(
            f"cannot read image {path}: {error}; replace or delete the file"
        ) from error
    left, top = ((side - resolution) // 2 for side in image.size)
    crop = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(crop, dtype=np.uint8))
    return pixels.reshape(resolution, resolution, channels).permute(2, 0, 1).contiguous()
