"""Gradients of the matching loss, recorded once and replayed.

The loss of few features in a product of spaces with transport is several hundred short operations.
On a GPU launching them one by one from Python takes longer than computing them; a CUDA graph
launches all of them at once. What is recorded reads and writes places of its own: inputs are copied
there, and results are taken from there before the next replay overwrites them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.coupling import OptimalTransport
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.processes import first_line, say_once

Run: TypeAlias = Callable[[], None]
Recorder: TypeAlias = Callable[[Run], Run]  # runs something, and returns what runs it again
WARM_UPS = 3  # runs in which libraries choose their kernels before anything is recorded
AGREEMENT = 1e-3  # of a replay with the operations one by one, in shares of the largest number

ONE_BY_ONE = "trainer.graphs=true, but the matching loss runs operation by operation"


class Gradients(NamedTuple):
    """A matching loss and its derivatives.

    Attributes:
        total: Loss of each class, ``(C,)``.
        parts: Its named terms, ``(C,)`` each.
        features: Gradient by the synthetic features, ``(C, S, d)``.
        parameters: Gradients by the learned parameters of the geometry, in their order.
    """

    total: Tensor
    parts: dict[str, Tensor]
    features: Tensor
    parameters: tuple[Tensor, ...]


class ReplayedGradients:
    """The gradients of a matching loss, replayed where it was recorded for such shapes.

    The first call with a shape, or with other factors in use, records; if that fails or a replay
    does not agree with the operations one by one, nothing is replayed any more, and one line says
    why.

    Args:
        matching: A loss for which :func:`obstacle` knows nothing.
        record: What records; a CUDA graph.
    """

    def __init__(self, matching: GeometricMatching, record: Recorder | None = None) -> None:
        self.matching = matching
        self.record = record or record_cuda_graph
        self.learned = matching.geometry_parameters()
        self.is_refused = False
        self._recordings: dict[Any, _Recording] = {}

    def __call__(self, real: Tensor, synthetic: Tensor) -> Gradients | None:
        """Return loss and gradients, valid until the next call, or None where nothing is replayed.

        Args:
            real: Unscaled features of real images, ``(C, R, d)``.
            synthetic: Those of synthetic images, ``(C, S, d)``.
        """
        if self.is_refused:
            return None
        factors = tuple(name for name, _, _ in self.matching.geometry.active_factors())
        key = (real.shape, synthetic.shape, real.dtype, factors)
        if key not in self._recordings:
            reason = self._try(key, real, synthetic)
            if reason is not None:
                say_once(f"{ONE_BY_ONE}: {reason}")
                self.is_refused = True
                self._recordings.clear()
                return None
        return self._recordings[key](real, synthetic)

    def _try(self, key: Any, real: Tensor, synthetic: Tensor) -> str | None:
        """Record, and compare a replay on other features with the operations; why not, if not."""
        others = (1.5 * real, 0.5 * synthetic)
        expected = gradients_of(self.matching, *others)
        try:
            recording = _Recording(self.matching, real, synthetic, self.record)
            found = recording(*others)
        except RuntimeError as error:
            return f"the loss cannot be recorded ({first_line(str(error))})"
        for ours, theirs in zip(_tensors(found), _tensors(expected), strict=True):
            bound = AGREEMENT * float(theirs.abs().max())
            if not torch.allclose(ours, theirs, rtol=0, atol=bound, equal_nan=True):
                return "a replay does not agree with the operations one by one"
        self._recordings[key] = recording
        return None


class _Recording:
    """What was recorded for one shape, with the places it reads and writes."""

    def __init__(
        self, matching: GeometricMatching, real: Tensor, synthetic: Tensor, record: Recorder
    ) -> None:
        self.real, self.synthetic = real.detach().clone(), synthetic.detach().clone()
        self.found: Gradients | None = None

        def run() -> None:
            self.found = gradients_of(matching, self.real, self.synthetic)

        self.replay = record(run)

    def __call__(self, real: Tensor, synthetic: Tensor) -> Gradients:
        with torch.no_grad():
            self.real.copy_(real)
            self.synthetic.copy_(synthetic)
        self.replay()
        assert self.found is not None
        return self.found


def obstacle(matching: GeometricMatching, device: torch.device) -> str | None:
    """Return why the gradients of a loss cannot be replayed on a device, None if they can."""
    if device.type != "cuda":
        return f"{device.type} has no graphs"
    return randomness(matching)


def randomness(matching: GeometricMatching) -> str | None:
    """Return what of a loss is not the same in every iteration, None if nothing is."""
    if isinstance(matching.base, CharacteristicMatching):
        return "its frequencies are drawn anew every iteration"
    if matching.history is not None:
        return "it remembers what it saw"
    base = matching.base
    terms = (matching.transport, base.transport if isinstance(base, OptimalTransport) else None)
    if any(term is not None and term.solver != "sinkhorn" for term in terms):
        return "its transport is not Sinkhorn's"
    return None


def replayed(matching: GeometricMatching, device: torch.device) -> ReplayedGradients | None:
    """Return what replays the gradients of a loss, or None and say once why they are not."""
    reason = obstacle(matching, device)
    if reason is not None:
        say_once(f"{ONE_BY_ONE}: {reason}")
        return None
    return ReplayedGradients(matching)


def gradients_of(matching: GeometricMatching, real: Tensor, synthetic: Tensor) -> Gradients:
    """Return loss and gradients, operation by operation.

    Args:
        matching: A loss that draws nothing.
        real: Unscaled features of real images, ``(C, R, d)``.
        synthetic: Those of synthetic images, ``(C, S, d)``.
    """
    leaf = synthetic.detach().requires_grad_()
    with torch.enable_grad():
        terms = matching(real, leaf, generator=torch.Generator())
        total = terms.total
        leaves = [leaf, *matching.geometry_parameters()]
        of_features, *others = torch.autograd.grad(
            total.sum(), leaves, allow_unused=True, materialize_grads=True
        )
    return Gradients(total.detach(), terms.parts, of_features, tuple(others))


def record_cuda_graph(run: Run) -> Run:
    """Run something a few times on a stream of its own, and record it as a CUDA graph."""
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _tensors(gradients: Gradients) -> list[Tensor]:
    parts = gradients.parts.values()
    return [gradients.total, *parts, gradients.features, *gradients.parameters]
