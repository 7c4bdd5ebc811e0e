"""Which network embeds the images of a step: a random one, or one between two checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from geodm_lightning.networks.network import Network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

NetworkBuilder = Callable[[torch.Generator], Network]
NetworkState = Mapping[str, Tensor]


class NetworkPool(Protocol):
    """A source of frozen networks that depend on the pool's seed and the step only."""

    def network(self, step: int) -> Network:
        """Return the frozen network of ``step``; it is overwritten when another step is asked."""

    def to(self, device: torch.device | str) -> NetworkPool:
        """Move the pool to ``device`` in place and return it."""


class RandomPool:
    """A freshly initialised network for every step or every few, drawn in place.

    Args:
        build: Called once with a generator; makes the network whose weights are redrawn.
        seed: Seed of the run.
        hold: Consecutive steps that see the same network: 1 in DM, 5 in M3D.

    Raises:
        InputError: If ``hold`` is below 1.
    """

    def __init__(self, build: NetworkBuilder, seed: int, *, hold: int = 1) -> None:
        if hold < 1:
            raise InputError(f"a network is held for at least 1 step, got {hold}")
        self._seed = seed
        self._hold = hold
        self._network = build(keyed_generator(seed, "network", 0)).requires_grad_(False)
        self._device = torch.device("cpu")
        self._step: int | None = None

    def to(self, device: torch.device | str) -> RandomPool:
        """Move the network to ``device`` in place; later weights are drawn there."""
        self._device = torch.device(device)
        self._network.to(self._device)
        self._step = None
        return self

    def network(self, step: int) -> Network:
        """Return the network of ``step``, frozen and in train mode.

        Args:
            step: Training step; the same step gives the same weights.

        Returns:
            The pool's one network; asking for another step overwrites its weights.
        """
        drawn_at = step - step % self._hold
        if drawn_at != self._step:
            generator = keyed_generator(self._seed, "network", drawn_at, device=self._device)
            self._network.reset_parameters(generator)
            self._step = drawn_at
        return self._network.train()


class TrainedPool:
    """Networks between the first and the last checkpoint of a few trainings.

    Every step draws one training and ``l ~ U(0, 1)``; its network has the parameters
    ``l·initial + (1 − l)·final``. All checkpoints stay on the pool's device.

    Args:
        initial_states: State dictionaries before training.
        final_states: State dictionaries after training, in the same order.
        build: Called with a generator; makes the networks the states are loaded into.
        seed: Seed of the run.
        interpolate: Whether to mix; if false every step gives a final checkpoint (DSDM).

    Raises:
        InputError: If there are no states or the two lists differ in length.

    References:
        Wang et al., "Dataset distillation with neural characteristic function", 2025;
        Zhang et al., "DANCE", 2024.
    """

    def __init__(
        self,
        initial_states: Sequence[NetworkState],
        final_states: Sequence[NetworkState],
        build: NetworkBuilder,
        seed: int,
        *,
        interpolate: bool = True,
    ) -> None:
        if not final_states or len(initial_states) != len(final_states):
            raise InputError(
                f"a pool of trained networks needs as many initial as final states and at least "
                f"one, got {len(initial_states)} and {len(final_states)}"
            )
        self._initial_states = [dict(state) for state in initial_states]
        self._final_states = [dict(state) for state in final_states]
        self._seed = seed
        self._interpolate = interpolate
        generator = keyed_generator(seed, "network", 0)
        self._mixed = build(generator).requires_grad_(False)
        self._trained = build(generator).requires_grad_(False).eval()
        self._loaded: dict[str, int] = {}
        self.to("cpu")

    def to(self, device: torch.device | str) -> TrainedPool:
        """Move the networks and all checkpoints to ``device`` in place."""
        for states in (self._initial_states, self._final_states):
            states[:] = [{key: value.to(device) for key, value in s.items()} for s in states]
        self._mixed.to(device)
        self._trained.to(device)
        return self

    def network(self, step: int) -> Network:
        """Return the mixed network of ``step``, frozen and in train mode.

        Args:
            step: Training step; the same step gives the same training and the same ``l``.

        Returns:
            The pool's one mixed network; asking for another step overwrites its weights.
        """
        if self._loaded.get("mixed") != step:
            index, share = self._draw(step)
            initial, final = self._initial_states[index], self._final_states[index]
            for key, tensor in self._mixed.state_dict().items():
                if self._interpolate and tensor.is_floating_point():
                    torch.lerp(final[key], initial[key], share, out=tensor)
                else:
                    tensor.copy_(final[key])
            self._loaded["mixed"] = step
        return self._mixed.train()

    def trained(self, step: int) -> Network:
        """Return the final checkpoint of the training drawn for ``step``, frozen, in eval mode.

        It is a second network, so it may be used beside :meth:`network` of the same step.
        """
        if self._loaded.get("trained") != step:
            self._trained.load_state_dict(self._final_states[self._draw(step)[0]])
            self._loaded["trained"] = step
        return self._trained

    def _draw(self, step: int) -> tuple[int, float]:
        generator = keyed_generator(self._seed, "network", step)
        index = torch.randint(len(self._final_states), (), generator=generator)
        return int(index), torch.rand((), generator=generator).item()
