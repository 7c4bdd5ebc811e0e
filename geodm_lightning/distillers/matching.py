"""Learn the pixels of a distilled set by matching features of real images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from lightning import LightningModule
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.ledger import Ledger
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
PlateauFactory = Callable[[Optimizer], ReduceLROnPlateau]


class StepSizes(NamedTuple):
    """How much one iteration holds at once, and how often it reports.

    Attributes:
        classes_per_step: Classes whose activations are held at once; the gradient is
            the same for any value, only memory changes.
        log_every: Iterations averaged into one row of the metrics.
    """

    classes_per_step: int
    log_every: int


class MatchingDistiller(LightningModule):
    """Synthetic images and geometry, learned jointly by matching features class by class.

    One iteration draws real images of all classes, augments real and synthetic images of
    a class with one shared draw, embeds both in the network of that iteration and steps
    the images, the curvatures and the geometry weights down the summed class losses.
    Optimisation is manual: the images are divided by class over the processes, only the
    gradient of the few geometry parameters is added up.

    Args:
        synthetic: Images of the classes this process owns.
        matching: Loss in the product space, with its learnable geometry.
        real: Features of the real images of an iteration, with the networks.
        image_optimizer: Factory for the optimiser of the pixels.
        geometry_optimizer: Factory for the optimiser of curvatures and weights.
        image_scheduler: Factory for a schedule of the pixels' rate that watches the summed
            loss of each iteration, None for a constant rate.
        sizes: Classes at once and the logging interval.
        processes: Place among the processes of the run.
    """

    def __init__(
        self,
        synthetic: SyntheticImages,
        matching: GeometricMatching,
        *,
        real: RealFeatures,
        image_optimizer: OptimizerFactory,
        geometry_optimizer: OptimizerFactory,
        image_scheduler: PlateauFactory | None = None,
        sizes: StepSizes,
        processes: Processes,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.synthetic = synthetic
        self.matching = matching
        self.real = real
        self.sizes = sizes
        self.processes = processes
        self.trackers: Sequence[Logger] = ()
        self.iteration = 0
        self.seconds = 0.0
        self.sums: dict[str, Tensor] = {}
        self.num_summed = 0
        self.ledger = Ledger(synthetic.pixels.device, measure_every=sizes.log_every)
        self.image_optimizer = image_optimizer([synthetic.pixels])
        self.image_scheduler = image_scheduler(self.image_optimizer) if image_scheduler else None
        geometry = list(self.geometry_parameters())
        self.geometry_optimizer = geometry_optimizer(geometry) if geometry else None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.real.seed

    @property
    def num_classes(self) -> int:
        """Classes of the data set, over all processes."""
        return self.real.table.spec.num_classes

    def geometry_parameters(self) -> Iterable[Tensor]:
        """Yield the learnable curvature and weight parameters, if any."""
        return (p for p in self.matching.parameters() if p.requires_grad)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimisers made in the constructor: images first, then geometry."""
        geometry = [] if self.geometry_optimizer is None else [self.geometry_optimizer]
        return [self.image_optimizer, *geometry]

    def training_step(self, iteration: int) -> None:
        """Run one iteration: all owned classes, one step of every optimiser."""
        started, before = time.perf_counter(), sum(self.ledger.seconds.values())
        for optimizer in self.configure_optimizers():
            optimizer.zero_grad(set_to_none=True)
        with self.ledger.iteration(iteration):
            losses = [self.match(classes, iteration) for classes in self.chunks()]
            with self.ledger.section("optimiser"):
                self.step_optimizers(sum(losses, start=losses[0].new_zeros(())))
        self.iteration = iteration + 1
        self.num_summed += 1
        charged = sum(self.ledger.seconds.values()) - before
        self.seconds += max(time.perf_counter() - started, charged)
        if self.iteration % self.sizes.log_every == 0:
            self.log_rows()

    def chunks(self) -> Iterator[slice]:
        """Yield the classes of this process, those held at once together."""
        owned = self.processes.shard(self.num_classes)
        for start in range(owned.start, owned.stop, self.sizes.classes_per_step):
            yield slice(start, min(start + self.sizes.classes_per_step, owned.stop))

    def match(self, classes: slice, iteration: int) -> Tensor:
        """Add the gradients of some classes and return their summed loss.

        The graph is cut at the augmented images and at the features, so that every component
        runs its own backward pass and is charged for it.
        """
        first = self.processes.shard(self.num_classes).start
        own, section = slice(classes.start - first, classes.stop - first), self.ledger.section
        real = self.real.fetch(classes, iteration, ledger=self.ledger)
        with section("augment"):
            draw = self.real.draw(iteration).augmentation.select(classes)
            images = self.real.augmentation(self.synthetic(own), draw)
            seen = images.detach().flatten(0, 1).requires_grad_()
        with section("network"):
            features = self.real.pool.network(iteration).embed(seen)
            matched = features.detach().float().unflatten(0, images.shape[:2]).requires_grad_()
        generator = keyed_generator(self.seed, "frequencies", iteration, device=real.device)
        terms = self.matching(
            real.float(), matched, generator=generator, classes=own, ledger=self.ledger
        )
        self.backward_shares(terms.shares)
        with section("network"):
            assert matched.grad is not None
            self.manual_backward(features, matched.grad.flatten(0, 1).to(features.dtype))
        with section("augment"):
            assert seen.grad is not None
            self.manual_backward(images, seen.grad.unflatten(0, images.shape[:2]))
        total = terms.total.detach()
        self.accumulate(total, terms.parts)
        return total.sum()

    def backward_shares(self, shares: dict[str, Tensor]) -> None:
        """Run the backward pass of each component's share of the loss down to the features."""
        *_, last = shares
        for component, share in shares.items():
            with self.ledger.section(component):
                self.manual_backward(share.sum(), retain_graph=component != last)

    def accumulate(self, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Add per-class terms to the sums of the current logging interval."""
        for name, value in {"loss": total, **parts}.items():
            key = "distill/loss" if name == "loss" else f"distill/loss/{name}"
            summed = value.sum()
            self.sums[key] = self.sums[key] + summed if key in self.sums else summed

    def step_optimizers(self, loss: Tensor) -> None:
        """Step all optimisers and bring images and geometry back into their ranges."""
        if self.geometry_optimizer is not None:
            for parameter in self.geometry_parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.processes.sum_(parameter.grad)
        for optimizer in self.configure_optimizers():
            optimizer.step()
        self.synthetic.clamp_()
        self.matching.geometry.clamp_()
        if self.image_scheduler is not None:
            self.image_scheduler.step(self.processes.sum_(loss).item())

    def log_rows(self) -> None:
        """Write the mean terms per class since the last row, and the geometry.

        Raises:
            InputError: If a term is not finite, naming the first one that is not.
        """
        scale = self.num_classes * self.num_summed
        means = {name: value / scale for name, value in self.check_finite().items()}
        geometry = {f"distill/{k}": v for k, v in self.matching.geometry.state().items()}
        for logger in self.trackers:
            logger.log_metrics({**means, **geometry}, step=self.iteration)
        self.trainer.progress_bar_metrics.update({"loss": means["distill/loss"]})
        self.sums, self.num_summed = {}, 0

    def check_finite(self) -> dict[str, float]:
        """Stop on a loss that is not finite, before it is logged or saved.

        Returns:
            The sums of all terms since the last row, over all processes.

        Raises:
            InputError: Naming the term; raised on every process at once.
        """
        if not self.sums:
            return {}
        stacked = self.processes.sum_(torch.stack(list(self.sums.values())).float())
        values = dict(zip(self.sums, stacked.tolist(), strict=True))
        broken = sorted(name for name, value in values.items() if not math.isfinite(value))
        if broken:
            terms = [name for name in broken if name != "distill/loss"] or broken
            raise InputError(
                f"{', '.join(terms)} is not finite at iteration {self.iteration}; the last "
                "good checkpoint is kept: lower distiller.image_optimizer.lr or "
                "distiller.geometry_optimizer.lr, or raise transport.epsilon"
            )
        return values
