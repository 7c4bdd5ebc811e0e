"""One picture file to pixels, and back: PNG and JPEG, nothing else, within bounds."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from geodm_lightning.types import InputError

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 4096 * 4096  # of one picture; larger ones are no distilled images


def read_picture(path: Path, *, root: Path, channels: int) -> Tensor:
    """Read one picture.

    Args:
        path: The file.
        root: Folder of the set, in which the file must lie, links followed.
        channels: 1 for grey, 3 for colour; grey pictures become colour where that is asked.

    Returns:
        ``(channels, h, w)`` uint8.

    Raises:
        InputError: If it leads out of ``root``, is no whole PNG or JPEG, too large, of a kind
            that would lose something, or in colour where grey is asked.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"refused {path}: it is a link out of {root}; copy the file there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise InputError(f"refused {path}: {width}×{height} pixels are too many")
                if picture.mode not in ("L", "RGB", "P"):
                    raise InputError(f"{path} is of kind {picture.mode}, not 8-bit grey or colour")
                mode = "L" if picture.mode == "L" else "RGB"
                pixels = torch.from_numpy(np.array(picture.convert(mode)))
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"cannot read the picture {path} ({reason}); make it again") from error
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    if channels == 3:
        return pixels.expand(3, -1, -1).contiguous()
    if len(pixels) == 3 and not (pixels == pixels[:1]).all():
        raise InputError(f"{path} is in colour, the data set is grey; use data=NAME of its own")
    return pixels[:1].contiguous()


def write_picture(path: Path, pixels: Tensor) -> None:
    """Write pixels ``(1 or 3, h, w)`` uint8 as PNG, exactly."""
    values = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(values.contiguous().numpy()).save(path, format="PNG")


def to_bytes(images: Tensor) -> tuple[Tensor, float]:
    """Round unit-range images to 8 bits.

    Args:
        images: uint8, or float32 in unit range.

    Returns:
        The uint8 images, and the largest change of a pixel in unit range.
    """
    if images.dtype == torch.uint8:
        return images, 0.0
    pixels = (images.double().clamp(0, 1) * 255).round()
    return pixels.to(torch.uint8), float((pixels / 255 - images).abs().max())
