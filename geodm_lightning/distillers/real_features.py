"""Features of the real images of an iteration, computed once for all who match against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from geodm_lightning.data.augment import Augmentation, AugmentDraw
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.ledger import Ledger, Spending
from geodm_lightning.networks.network import BlockNetwork
from geodm_lightning.networks.pool import NetworkPool
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.workers import run_each

CPU_CHUNK = 64  # images that a core embeds at once; more leave its caches and keep others waiting
SMALLEST_CHUNK = 8  # fewer have no tiles enough for Winograd's convolution
CPU_PIECE = 2**18  # numbers, for each core, in images gathered and augmented at once, or one class


def couples_images(network: nn.Module) -> bool:
    """Whether a network in train mode mixes the images of a batch, as batch norm does."""
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


class Draw(NamedTuple):
    """What one iteration looks at.

    Attributes:
        indices: ``(C, R)`` real images of every class.
        augmentation: One draw per class, shared by real and synthetic images.
    """

    indices: Tensor
    augmentation: AugmentDraw


class _Kept(NamedTuple):
    features: Tensor
    spending: Spending
    num_left: int


class RealFeatures:
    """Real images drawn, augmented and embedded, iteration by iteration, without a graph.

    Everything depends on the seed and the iteration alone, so distillations that run in
    lockstep on the same networks share the work: the features of a chunk of classes are kept
    until every one of them has fetched them.

    Args:
        table: Real training images.
        pool: Networks, one per iteration.
        augmentation: Differentiable augmentation.
        real_batch: Real images drawn per class; all of a class where it has fewer.
        seed: Seed of the run; every draw is keyed by it and the iteration.
    """

    def __init__(
        self,
        table: ImageTable,
        pool: NetworkPool,
        augmentation: Augmentation,
        *,
        real_batch: int,
        seed: int,
    ) -> None:
        self.table = table
        self.pool = pool
        self.augmentation = augmentation
        self.real_batch = real_batch
        self.seed = seed
        self.num_users = 1
        self._iteration: int | None = None
        self._draw: Draw | None = None
        self._kept: dict[tuple[int, int], _Kept] = {}

    def draw(self, iteration: int) -> Draw:
        """Draw real images and the augmentation of all classes; the same for all processes."""
        if self._iteration != iteration or self._draw is None:
            num_classes = self.table.spec.num_classes
            generator = keyed_generator(self.seed, "real", iteration)
            indices = self.table.draw(self.real_batch, generator=generator)
            generator = keyed_generator(self.seed, "augment", iteration)
            augmentation = self.augmentation.draw(num_classes, generator=generator)
            self._iteration, self._draw, self._kept = iteration, Draw(indices, augmentation), {}
        return self._draw

    def fetch(self, classes: slice, iteration: int, *, ledger: Ledger) -> Tensor:
        """Return features ``(C, R, d)`` of the real images of ``classes``.

        Args:
            classes: Consecutive classes.
            iteration: Iteration of the run.
            ledger: Charged with the work, also where someone else has done it for all.
        """
        key = (classes.start, classes.stop)
        kept = self._kept.pop(key, None) if self._iteration == iteration else None
        if kept is None:
            before = ledger.balance()
            features = self._compute(classes, iteration, ledger)
            kept = _Kept(features, ledger.since(before), self.num_users)
        else:
            ledger.charge(kept.spending)
            ledger.hold(kept.features)
        if kept.num_left > 1:
            self._kept[key] = kept._replace(num_left=kept.num_left - 1)
        return kept.features

    @torch.no_grad()
    def _compute(self, classes: slice, iteration: int, ledger: Ledger) -> Tensor:
        with ledger.section("augment"):
            indices, draw = self.draw(iteration)
        with ledger.section("network"):
            network = self.pool.network(iteration)
        features = []
        for some in self._pieces(classes, indices.shape[1], network):
            with ledger.section("augment"):
                images = normalise(self.table.gather(indices[some]), self.table.spec)
                images = self.augmentation(images, draw.select(some)).flatten(0, 1)
            with ledger.section("network"):
                features.append(embed_in_chunks(network, images))
        return torch.cat(features).unflatten(0, (-1, indices.shape[1]))

    def _pieces(self, classes: slice, num_real: int, network: nn.Module) -> Iterator[slice]:
        """Yield the classes whose images are made together: on a CPU few, to stay in its caches."""
        step = classes.stop - classes.start
        if self.table.device.type == "cpu" and not couples_images(network):
            spec = self.table.spec
            numbers = CPU_PIECE * torch.get_num_threads()
            step = max(numbers // (num_real * spec.channels * spec.resolution**2), 1)
        for start in range(classes.start, classes.stop, step):
            yield slice(start, min(start + step, classes.stop))


@torch.no_grad()
def embed_in_chunks(network: nn.Module, images: Tensor) -> Tensor:
    """Embed images ``(n, ch, h, w)`` without a graph; features ``(n, d)``.

    A CPU takes them in pieces that fit its caches, unless the network mixes the images.
    """
    embed: Callable[[Tensor], Tensor] = network.embed  # type: ignore[assignment]
    if images.device.type != "cpu" or couples_images(network):
        return embed(images)
    if not isinstance(network, BlockNetwork):  # may draw random numbers, in their order
        return torch.cat([embed(chunk) for chunk in images.split(CPU_CHUNK)])
    return torch.cat(run_each(embed, images.split(_chunk_size(len(images)))))


def _chunk_size(num_images: int) -> int:
    """Return the size of chunks of which every core has as many as the others."""
    cores = torch.get_num_threads()
    rounds = max(math.ceil(num_images / (cores * CPU_CHUNK)), 1)
    return max(math.ceil(num_images / (cores * rounds)), SMALLEST_CHUNK)
