"""Learn the pixels of a distilled set by matching features of real images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from lightning import LightningModule
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.optim import Optimizer

from geodm_lightning.distillers.calibration import Calibration
from geodm_lightning.distillers.plateau import Plateau
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.recipe import Optimizers, StepSizes
from geodm_lightning.distillers.replay import ReplayedGradients
from geodm_lightning.distillers.running_terms import PREFIX, RunningTerms
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.ledger import Ledger
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.networks.compiled import embedded
from geodm_lightning.networks.network import Network
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator

LOGGER = logging.getLogger(__name__)
UNIFORM = 0.01  # total variation between a plan and the uniform one
Embed = Callable[[Network, Tensor], Tensor]


class MatchingDistiller(LightningModule):
    """Synthetic images and geometry, learned jointly by matching features class by class.

    One iteration draws real images of all classes, augments real and synthetic images of
    a class with one shared draw, embeds both in the network of that iteration and steps
    the images, the curvatures and the geometry weights down the summed class losses; what
    :meth:`GeometricMatching.ascending_parameters` names steps up.
    Optimisation is manual: the images are divided by class over the processes, only the
    gradient of the few geometry parameters is added up.

    Args:
        synthetic: Images of the classes this process owns.
        matching: Loss in the product space, with its learnable geometry.
        real: Features of the real images of an iteration, with the networks.
        optimizers: Factories of the optimisers.
        calibration: Cross-entropy of the images in trained networks, None for none.
        sizes: Length of the run, classes at once and the logging interval.
        processes: Place among the processes of the run.
        embed: Maps a network and synthetic images ``(n, ch, h, w)`` to features ``(n, d)``.
        replay: Gradients of ``matching`` recorded and replayed, None for none.
    """

    def __init__(
        self,
        synthetic: SyntheticImages,
        matching: GeometricMatching,
        *,
        real: RealFeatures,
        optimizers: Optimizers,
        calibration: Calibration | None = None,
        sizes: StepSizes,
        processes: Processes,
        embed: Embed = embedded,
        replay: ReplayedGradients | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.synthetic = synthetic
        self.matching = matching
        self.real = real
        self.calibration = calibration
        self.sizes = sizes
        self.processes = processes
        self.embed = embed
        self.replay = replay
        self.trackers: Sequence[Logger] = ()
        self.iteration = 0
        self.seconds = 0.0
        self.terms = RunningTerms(processes)
        self.ledger = Ledger(synthetic.pixels.device, measure_every=sizes.log_every)
        self.image_optimizer = optimizers.images([synthetic.pixels])
        self.image_scheduler = (
            Plateau(optimizers.scheduler(self.image_optimizer)) if optimizers.scheduler else None
        )
        geometry, sampler = matching.geometry_parameters(), matching.sampler_parameters()
        self.loss_optimizers = {}  # of the parameters of the loss, alike on all processes
        if geometry:
            self.loss_optimizers["geometry"] = optimizers.geometry(geometry)
        if sampler:
            assert optimizers.sampler is not None
            self.loss_optimizers["sampler"] = optimizers.sampler(sampler)
        if matching.history is not None:
            owned = processes.shard(self.num_classes)
            matching.history.allocate(owned.stop - owned.start)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.real.seed

    @property
    def num_classes(self) -> int:
        """Classes of the data set, over all processes."""
        return self.real.table.spec.num_classes

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimisers made in the constructor, that of the images first."""
        return [self.image_optimizer, *self.loss_optimizers.values()]

    def training_step(self, iteration: int) -> None:
        """Run one iteration: all owned classes, one step of every optimiser."""
        started, before = time.perf_counter(), sum(self.ledger.seconds.values())
        for optimizer in self.configure_optimizers():
            optimizer.zero_grad(set_to_none=True)
        with self.ledger.iteration(iteration):
            loss = self.synthetic.pixels.new_zeros(())
            for classes in self.chunks():
                loss = loss + self.match(classes, iteration)
            with self.ledger.section("optimiser"):
                self.step_optimizers(loss)
        self.iteration = iteration + 1
        self.terms.num_iterations += 1
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
            features = self.embed(self.real.pool.network(iteration), seen)
            matched = features.detach().float().unflatten(0, images.shape[:2]).requires_grad_()
        total, parts = self.backward_loss(real.float(), matched, classes=own, iteration=iteration)
        with section("network"):
            if self.calibration is not None:
                seen_by_class = seen.unflatten(0, images.shape[:2])
                error = self.calibration(
                    seen_by_class, first_class=classes.start, iteration=iteration
                )
                self.manual_backward(error.sum())
                total, parts = total + error.detach(), {**parts, "calibration": error.detach()}
            assert matched.grad is not None
            self.manual_backward(features, matched.grad.flatten(0, 1).to(features.dtype))
        with section("augment"):
            assert seen.grad is not None
            self.manual_backward(images, seen.grad.unflatten(0, images.shape[:2]))
        self.terms.add(total, parts)
        return total.sum()

    def backward_loss(
        self, real: Tensor, matched: Tensor, *, classes: slice, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of the matching loss by features and geometry.

        They are replayed where that was asked for, except in iterations that are measured
        component by component.

        Args:
            real: Features of real images, ``(C, R, d)``.
            matched: Those of synthetic images, ``(C, S, d)``, a leaf.
            classes: Which they are of those of this process.
            iteration: Iteration of the run.

        Returns:
            The loss of each class and its named terms, ``(C,)`` each.
        """
        if self.replay is not None and not self.ledger.is_measuring:
            gradients = self.replay(real, matched)
            if gradients is not None:
                matched.grad = gradients.features
                learned = self.replay.learned
                for parameter, gradient in zip(learned, gradients.parameters, strict=True):
                    before = parameter.grad
                    parameter.grad = gradient.clone() if before is None else before + gradient
                return gradients.total, gradients.parts
        generator = keyed_generator(self.seed, "frequencies", iteration, device=real.device)
        terms = self.matching(
            real, matched, generator=generator, classes=classes, ledger=self.ledger
        )
        self.backward_shares(terms.shares)
        return terms.total.detach(), terms.parts

    def backward_shares(self, shares: dict[str, Tensor]) -> None:
        """Run the backward pass of each component's share of the loss down to the features."""
        *_, last = shares
        for component, share in shares.items():
            with self.ledger.section(component):
                self.manual_backward(share.sum(), retain_graph=component != last)

    def step_optimizers(self, loss: Tensor) -> None:
        """Step all optimisers and bring images and geometry back into their ranges."""
        for optimizer in self.loss_optimizers.values():
            for parameter in optimizer.param_groups[0]["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.processes.sum_(parameter.grad)
        for parameter in self.matching.ascending_parameters():
            assert parameter.grad is not None
            parameter.grad.neg_()
        if self.image_scheduler is not None:
            self.image_scheduler.settle()
        for optimizer in self.configure_optimizers():
            optimizer.step()
        self.synthetic.clamp_()
        self.matching.geometry.clamp_()
        if self.matching.history is not None:
            self.matching.history.advance_((self.iteration + 1) / self.sizes.num_iterations)
        if self.image_scheduler is not None:
            self.image_scheduler.watch(self.processes.sum_(loss))

    def log_rows(self) -> None:
        """Write the mean terms per class since the last row, and the geometry.

        Factors whose weight has vanished are left out from here on, unless frequencies are
        learned for the coordinates of all of them.

        Raises:
            InputError: If a term is not finite, naming the first one that is not.
        """
        means = self.terms.take_means(num_classes=self.num_classes, iteration=self.iteration)
        geometry = self.matching.geometry
        if not self.matching.sampler_parameters():
            for factor in geometry.skip_vanished_():
                self.ledger.mark(f"iteration {self.iteration}, without {factor}")
        numbers = means | {f"distill/{key}": value for key, value in geometry.state().items()}
        for logger in self.trackers:
            logger.log_metrics(numbers, step=self.iteration)
        if means.get(f"{PREFIX}/plan_contrast", 1.0) < UNIFORM and self.processes.is_main:
            warn_of_uniform_plan()
        self.trainer.progress_bar_metrics.update({"loss": means[PREFIX]})


@cache
def warn_of_uniform_plan() -> None:
    """Say, once, that transport couples nothing where its plan is uniform to within 1 %."""
    LOGGER.warning(
        "a transport plan is uniform to within 1 %, so its term only adds mean distances: lower "
        "transport.epsilon, or let a class have more synthetic images with ipc or "
        "distiller.factor; see plan_contrast in the metrics"
    )
