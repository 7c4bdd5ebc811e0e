"""The idx format of the MNIST family."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

UBYTE = 8  # idx code of unsigned bytes


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes.

    Args:
        path: The unpacked file.

    Returns:
        uint8 tensor of the shape that the file's header states.

    Raises:
        ValueError: If the file is no idx file of bytes or is longer or shorter than it says.

    References:
        LeCun et al., http://yann.lecun.com/exdb/mnist, "File formats".
    """
    content = bytearray(path.read_bytes())
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UBYTE:
        raise ValueError("is not an idx file of bytes")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if math.prod(shape) == 0 or len(content) != start + math.prod(shape):
        raise ValueError(
            f"has {len(content)} bytes where its header says {start + math.prod(shape)}"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(shape)
