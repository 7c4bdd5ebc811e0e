"""ZCA: the whitening of pixels, read from a file, applied and undone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodm_lightning.exchange.safe import load_torch
from geodm_lightning.types import InputError


class Whitening(NamedTuple):
    """ZCA: pixels of an image, less their mean, times a matrix.

    Attributes:
        mean: ``(D,)`` float64 over unit-range images of ``D = ch · h · w`` values.
        matrix: ``(D, D)`` float64, multiplied from the right.
    """

    mean: Tensor
    matrix: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Whiten unit-range images ``(N, ch, h, w)``; float32."""
        rows = (images.flatten(1).double() - self.mean) @ self.matrix
        return rows.float().view_as(images)

    def undo(self, images: Tensor) -> Tensor:
        """Return the unit-range images ``(N, ch, h, w)`` of whitened ones; float32.

        Raises:
            InputError: If they do not fit the matrix or it has no inverse.
        """
        flat = images.flatten(1).double()
        if flat.shape[1] != len(self.mean):
            raise InputError(
                f"zca= is a matrix for images of {len(self.mean)} values, these have "
                f"{flat.shape[1]}; give the one they were whitened by"
            )
        try:
            rows = torch.linalg.solve(self.matrix.T, flat.T).T + self.mean
        except torch.linalg.LinAlgError as error:
            raise InputError("zca= is a matrix without inverse; save one with eps > 0") from error
        return rows.float().view_as(images)


def load_whitening(path: Path) -> Whitening:
    """Read ``mean`` and ``matrix`` from a safetensors file or one of ``torch.save``.

    Raises:
        InputError: If the file cannot be read or holds no such tensors.
    """
    if path.suffix == ".safetensors":
        try:
            content = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read zca={path} ({error})") from error
    else:
        content = load_torch(path)
    found = [content.get(key) if isinstance(content, dict) else None for key in Whitening._fields]
    mean, matrix = (v.double() if isinstance(v, Tensor) else torch.empty(0) for v in found)
    mean = mean.flatten()
    if len(mean) == 0 or matrix.shape != (len(mean), len(mean)):
        raise InputError(f"zca={path} must hold tensors mean (D,) and matrix (D, D)")
    return Whitening(mean, matrix)
