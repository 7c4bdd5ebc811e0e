"""Random generators that depend on a key, never on what was drawn before.

Every random draw of the library comes from a generator keyed by the run's seed, the
purpose of the draw and the step at which it happens. The state of all randomness is
therefore the pair (seed, step): a run resumed at step ``k`` draws what the
uninterrupted run drew at step ``k``, and a process that owns half of the classes draws
what a single process would.
"""

from __future__ import annotations

import hashlib

import torch


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
