"""Learn the pixels of a distilled set by matching features of real images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from geodm_lightning.data.augment import Augmentation, AugmentDraw
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.matching.geodm import GeometricMatching
from geodm_lightning.networks.pool import NetworkPool
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

CPU_CHUNK = 128  # real images a CPU embeds at once; more leave its caches and are slower

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
PlateauFactory = Callable[[Optimizer], ReduceLROnPlateau]


def couples_images(network: nn.Module) -> bool:
    """Whether a network in train mode mixes the images of a batch, as batch norm does."""
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


class StepSizes(NamedTuple):
    """How much one iteration looks at, and how often it reports.

    Attributes:
        real_batch: Real images drawn per class; all of a class where it has fewer.
        classes_per_step: Classes whose activations are held at once; the gradient is
            the same for any value, only memory changes.
        log_every: Iterations averaged into one row of the metrics.
    """

    real_batch: int
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
        table: Real training images.
        pool: Networks, one per iteration.
        augmentation: Differentiable augmentation.
        image_optimizer: Factory for the optimiser of the pixels.
        geometry_optimizer: Factory for the optimiser of curvatures and weights.
        image_scheduler: Factory for a schedule of the pixels' rate that watches the summed
            loss of each iteration, None for a constant rate.
        sizes: Batch sizes and the logging interval.
        seed: Seed of the run; every draw is keyed by it and the iteration.
        processes: Place among the processes of the run.
    """

    def __init__(
        self,
        synthetic: SyntheticImages,
        matching: GeometricMatching,
        *,
        table: ImageTable,
        pool: NetworkPool,
        augmentation: Augmentation,
        image_optimizer: OptimizerFactory,
        geometry_optimizer: OptimizerFactory,
        image_scheduler: PlateauFactory | None = None,
        sizes: StepSizes,
        seed: int,
        processes: Processes,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.synthetic = synthetic
        self.matching = matching
        self.table = table
        self.pool = pool
        self.augmentation = augmentation
        self.sizes = sizes
        self.seed = seed
        self.processes = processes
        self.iteration = 0
        self.seconds = 0.0
        self.sums: dict[str, Tensor] = {}
        self.num_summed = 0
        self.image_optimizer = image_optimizer([synthetic.pixels])
        self.image_scheduler = image_scheduler(self.image_optimizer) if image_scheduler else None
        geometry = list(self.geometry_parameters())
        self.geometry_optimizer = geometry_optimizer(geometry) if geometry else None

    def geometry_parameters(self) -> Iterable[Tensor]:
        """Yield the learnable curvature and weight parameters, if any."""
        return (p for p in self.matching.parameters() if p.requires_grad)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimisers made in the constructor: images first, then geometry."""
        geometry = [] if self.geometry_optimizer is None else [self.geometry_optimizer]
        return [self.image_optimizer, *geometry]

    def training_step(self, iteration: int) -> None:
        """Run one iteration: all owned classes, one step of every optimiser."""
        started = time.perf_counter()
        for optimizer in self.configure_optimizers():
            optimizer.zero_grad(set_to_none=True)
        num_classes = self.table.spec.num_classes
        generator = keyed_generator(self.seed, "real", iteration)
        indices = self.table.draw(self.sizes.real_batch, generator=generator)
        generator = keyed_generator(self.seed, "augment", iteration)
        draw = self.augmentation.draw(num_classes, generator=generator)
        owned = self.processes.shard(num_classes)
        loss = torch.zeros((), device=self.synthetic.pixels.device)
        for start in range(owned.start, owned.stop, self.sizes.classes_per_step):
            classes = slice(start, min(start + self.sizes.classes_per_step, owned.stop))
            own = slice(classes.start - owned.start, classes.stop - owned.start)
            real = self.embed_real(indices[classes], draw.select(classes), iteration)
            synthetic = self.embed_synthetic(own, draw.select(classes), iteration)
            generator = keyed_generator(self.seed, "frequencies", iteration, device=real.device)
            with torch.autocast(self.device.type, enabled=False):
                terms = self.matching(real.float(), synthetic.float(), generator=generator)
            self.manual_backward(terms.total.sum())
            self.accumulate(terms.total.detach(), terms.parts)
            loss += terms.total.detach().sum()
        self.step_optimizers()
        if self.image_scheduler is not None:
            self.image_scheduler.step(self.processes.sum_(loss).item())
        self.iteration = iteration + 1
        self.num_summed += 1
        self.seconds += time.perf_counter() - started
        if self.iteration % self.sizes.log_every == 0:
            self.log_rows()

    @torch.no_grad()
    def embed_real(self, indices: Tensor, draw: AugmentDraw, iteration: int) -> Tensor:
        """Embed real images, indices ``(C, R)``, without a graph; features ``(C, R, d)``."""
        real = normalise(self.table.gather(indices), self.table.spec)
        images = self.augmentation(real, draw).flatten(0, 1)
        network = self.pool.network(iteration)
        whole = images.device.type != "cpu" or couples_images(network)
        chunks = images.split(len(images) if whole else CPU_CHUNK)
        features = torch.cat([network.embed(chunk) for chunk in chunks])
        return features.unflatten(0, indices.shape)

    def embed_synthetic(self, own: slice, draw: AugmentDraw, iteration: int) -> Tensor:
        """Embed this process's synthetic images of classes ``own``; features ``(C, S, d)``."""
        images = self.augmentation(self.synthetic(own), draw)
        features = self.pool.network(iteration).embed(images.flatten(0, 1))
        return features.unflatten(0, images.shape[:2])

    def accumulate(self, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Add per-class terms to the sums of the current logging interval."""
        for name, value in {"loss": total, **parts}.items():
            key = "distill/loss" if name == "loss" else f"distill/loss/{name}"
            summed = value.sum()
            self.sums[key] = self.sums[key] + summed if key in self.sums else summed

    def step_optimizers(self) -> None:
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

    def log_rows(self) -> None:
        """Write the mean terms per class since the last row, and the geometry.

        Raises:
            InputError: If a term is not finite, naming the first one that is not.
        """
        scale = self.table.spec.num_classes * self.num_summed
        means = {name: value / scale for name, value in self.check_finite().items()}
        geometry = {f"distill/{k}": v for k, v in self.matching.geometry.state().items()}
        for logger in self.loggers:
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
