"""A distilled set in memory."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def decode_mosaic(images: Tensor, *, factor: int) -> Tensor:
    """Cut each image into ``factor × factor`` tiles and enlarge each to full size.

    This is the multi-formation of IDC, also used by DSDM and NCFM: one stored image
    carries ``factor²`` training images. Differentiable.

    Args:
        images: Stored images, shape ``(..., n, ch, h, w)``.
        factor: Tiles per side; 1 leaves the images as they are.

    Returns:
        Decoded images, shape ``(..., n · factor², ch, h, w)``; the tiles of one image
        are neighbours, in reading order.

    Raises:
        ValueError: If ``factor`` is not positive or does not divide the image size.

    Example:
        >>> decode_mosaic(torch.zeros(10, 3, 32, 32), factor=2).shape
        torch.Size([40, 3, 32, 32])

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", 2022.
    """
    if factor == 1:
        return images
    *leading, num, channels, height, width = images.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor {factor} does not divide an image of {height}×{width} pixels")
    tile_height, tile_width = height // factor, width // factor
    tiles = images.reshape(-1, channels, factor, tile_height, factor, tile_width)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, tile_height, tile_width)
    full = functional.interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)
    return full.reshape(*leading, num * factor**2, channels, height, width)


class DistilledSet(NamedTuple):
    """A few synthetic images per class, with what one must know to train on them.

    Attributes:
        images: ``(N, ch, h, w)``. Learned pixels are float32 in unit range: 0 is black, 1 is
            white; images optimised without clamping may leave it. Generated pictures and
            others of 8 bits are uint8, 255 being white, a quarter of the memory.
        labels: ``(N,)`` int64 class indices.
        manifest: Plain values: ``method``, ``label``, ``ipc``, ``factor``, ``dataset``
            (the fields of its ``DatasetSpec``), ``cost``, ``provenance`` …
        soft_labels: ``(N, K)`` float32 logits that belong to the stored images, None where
            the set has class labels alone.
    """

    images: Tensor
    labels: Tensor
    manifest: dict[str, Any]
    soft_labels: Tensor | None = None

    def unit_images(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen images ``(n, ch, h, w)`` as float32 in unit range.

        Args:
            indices: int64 positions ``(n,)``, or a slice; all images when omitted.
        """
        chosen = self.images[indices]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen

    def decode(self) -> DistilledSet:
        """Return the set one trains on: mosaics cut, one label per image."""
        factor = int(self.manifest.get("factor", 1))
        soft = self.soft_labels
        return DistilledSet(
            images=self.images if factor == 1 else decode_mosaic(self.unit_images(), factor=factor),
            labels=self.labels.repeat_interleave(factor**2),
            manifest={**self.manifest, "factor": 1},
            soft_labels=None if soft is None else soft.repeat_interleave(factor**2, 0),
        )

    def digest(self) -> str:
        """Return a SHA-256 over pixels, labels and decoding, the identity of the set."""
        digest = hashlib.sha256(str(self.manifest.get("factor", 1)).encode())
        tensors = [self.images, self.labels]
        for tensor in tensors if self.soft_labels is None else [*tensors, self.soft_labels]:
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def class_major_labels(num_classes: int, ipc: int) -> Tensor:
    """Return the labels of a set that lists its images class by class.

    Example:
        >>> class_major_labels(3, 2)
        tensor([0, 0, 1, 1, 2, 2])
    """
    return torch.arange(num_classes).repeat_interleave(ipc)
