"""Random generators that depend on a key, never on what was drawn before.

Every random draw of the library comes from a generator keyed by the run's seed, the
purpose of the draw and the step at which it happens. The state of all randomness is
therefore the pair (seed, step): a run resumed at step ``k`` draws what the
uninterrupted run drew at step ``k``, and a process that owns half of the classes draws
what a single process would.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: the step of splitmix64


def keyed_seed(seed: int, *key: str | int) -> int:
    """Derive a 63-bit seed from a run seed and a key.

    Args:
        seed: Seed of the run.
        key: Purpose and position of the draw, for example ``("real", step)``.

    Returns:
        An integer in ``[0, 2**63)``; the same arguments always give the same one.

    Example:
        >>> keyed_seed(0, "real", 1) == keyed_seed(0, "real", 1)
        True
        >>> keyed_seed(0, "real", 1) == keyed_seed(0, "real", 2)
        False
    """
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def keyed_generator(
    seed: int, *key: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator seeded by :func:`keyed_seed`.

    Args:
        seed: Seed of the run.
        key: Purpose and position of the draw.
        device: Device whose tensors the generator shall fill.

    Returns:
        A freshly seeded ``torch.Generator`` on ``device``.
    """
    return torch.Generator(device=device).manual_seed(keyed_seed(seed, *key))


def counter_uniform(seed: int, *key: str | int, counters: Tensor, num: int) -> Tensor:
    """Draw rows of uniform numbers, each a function of the key and of its own counter alone.

    A row does not depend on which other rows are asked for, in what order or by which process:
    what a generator cannot give to the images of a batch, since it hands out numbers one after
    the other. Every row is a stream of splitmix64 that starts at a hash of key and counter.

    Args:
        seed: Seed of the run.
        key: Purpose of the draw, for example ``("crop", epoch)``.
        counters: ``(n,)`` integers on any device, for example indices of images.
        num: Numbers per row; asking for more leaves the first ones as they are.

    Returns:
        ``(n, num)`` float64 on the CPU, uniform in ``[0, 1)`` in steps of ``2**-53``.

    Example:
        >>> some = counter_uniform(0, "crop", counters=torch.tensor([7, 2]), num=3)
        >>> more = counter_uniform(0, "crop", counters=torch.arange(10), num=5)
        >>> torch.equal(some, more[[7, 2], :3])
        True

    References:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    rows = counters.cpu().to(torch.int64).numpy().astype(np.uint64)
    golden = np.uint64(_GOLDEN)
    starts = _mixed(np.uint64(keyed_seed(seed, *key)) + (rows + np.uint64(1)) * golden)
    steps = np.arange(1, num + 1, dtype=np.uint64) * golden
    bits = _mixed(starts[:, None] + steps)
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Scatter 64-bit words: the finaliser of splitmix64, a bijection; arrays wrap around."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
