"""Networks translated by ``torch.compile``, where its compiler works."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from geodm_lightning.networks.network import Network
from geodm_lightning.processes import first_line, say_once

Function = Callable[..., Tensor]


def embedded(network: Network, images: Tensor) -> Tensor:
    """Embed images ``(n, ch, h, w)``; features ``(n, d)``."""
    return network.embed(images)


def compiled(function: Function, device: torch.device) -> Function:
    """Return a function translated for a device, or itself where that fails.

    Every shape of its tensors is translated by itself, which takes tens of seconds; what it
    computes changes by rounding.

    Args:
        function: Maps tensors, or networks and tensors, to a tensor.
        device: Where it computes.
    """
    return torch.compile(function, dynamic=False) if is_able(device) else function


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Let a network be translated when it is called first, in place, where that works."""
    if is_able(device):
        network.compile(dynamic=False)


def is_able(device: torch.device) -> bool:
    """Whether functions can be translated for a device; why not is said once."""
    reason = obstacle(device)
    if reason is not None:
        say_once(f"trainer.compile=true, but networks run as they are: {reason}")
    return reason is None


@cache
def obstacle(device: torch.device) -> str | None:
    """Translate a small function and its derivative.

    Returns:
        Why that fails, None where it does not.
    """
    leaf = torch.ones(2, 3, device=device, requires_grad=True)
    try:
        with torch.enable_grad():
            torch.compile(_cubes, dynamic=False)(leaf).backward()
    except Exception as error:  # compilers fail in ways of their own
        return f"torch.compile fails here ({type(error).__name__}: {first_line(str(error))})"
    return None


def _cubes(values: Tensor) -> Tensor:
    return (values * values.relu().square()).sum()
