"""Matching steps on random pixels: ours under any strategy, and the published loop over classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import skip_init

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import TensorTable
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.recipe import Optimizers, StepSizes
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.geometry.product import build_product
from geodm_lightning.matching.geodm import GeometricMatching, Strategy
from geodm_lightning.matching.moments import MeanMatching
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.convnet import depth_for
from geodm_lightning.networks.network import Network, initialise_as_torch
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, LabelledImages

WIDTH = 128  # channels of every block
FACTORS = ("euclidean", "hyperbolic", "spherical")


class Sizes(NamedTuple):
    """What a step looks at; the depth of its ConvNet fits the images.

    Attributes:
        dataset: Name in the catalog, for the shape of its images.
        classes: Classes of a step.
        real_batch: Real images of a class.
        ipc: Synthetic images of a class.
        at_once: Classes whose activations are held at once; all where None.
    """

    dataset: str = "cifar10"
    classes: int = 10
    real_batch: int = 256
    ipc: int = 10
    at_once: int | None = None

    @property
    def spec(self) -> DatasetSpec:
        """The data set, with so many classes."""
        return dataset_spec(self.dataset)._replace(num_classes=self.classes)


def build(spec: DatasetSpec, generator: torch.Generator) -> Network:
    """Build the ConvNet of a data set."""
    return build_network(
        "convnet",
        num_classes=spec.num_classes,
        channels=spec.channels,
        resolution=spec.resolution,
        width=WIDTH,
        generator=generator,
    )


class Steps:
    """The variants of one step, all starting from the same images."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes, self.spec = device, sizes, sizes.spec
        self.per_class = 2 * sizes.real_batch  # random images; only their number matters
        spec, generator = self.spec, keyed_generator(0, "benchmark")
        shape = (sizes.classes * self.per_class, spec.channels, spec.resolution, spec.resolution)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.arange(sizes.classes).repeat_interleave(self.per_class)
        self.table = TensorTable(LabelledImages(pixels, labels), spec).to(device)
        self.initial = self.table.gather(self.table.draw(sizes.ipc, generator=generator))
        self.augmentation = Augmentation()

    def ours(self, base: Strategy | None = None, *, geometric: bool) -> MatchingDistiller:
        """Our step: a strategy in three factors with transport, or its Euclidean original."""
        matching = GeometricMatching(
            base or MeanMatching(),
            build_product(
                FACTORS if geometric else FACTORS[:1],
                curvature=1.0,
                learn_curvature=geometric,
                learn_weights=geometric,
            ),
            TransportMatching() if geometric else None,
        ).to(self.device)
        pool = RandomPool(partial(build, self.spec), 0).to(self.device)
        sizes = self.sizes
        distiller = MatchingDistiller(
            SyntheticImages(self.initial, spec=self.spec, space="normalised", factor=1),
            matching,
            real=RealFeatures(
                self.table, pool, self.augmentation, real_batch=sizes.real_batch, seed=0
            ),
            optimizers=Optimizers(
                images=partial(torch.optim.SGD, lr=1.0, momentum=0.5),
                geometry=partial(torch.optim.Adam, lr=1e-3),
            ),
            sizes=StepSizes(
                num_iterations=10**9,
                classes_per_step=sizes.at_once or sizes.classes,
                log_every=10**9,
            ),
            processes=Processes(),
        )
        distiller.manual_backward = torch.Tensor.backward  # type: ignore[method-assign,assignment]
        return distiller

    def per_class_loop(self) -> Callable[[int], None]:
        """The published DM step: a new network of PyTorch's layers, class after class."""
        images = normalise(self.table.gather(torch.arange(len(self.table))), self.spec)
        pixels = normalise(self.initial, self.spec).clone().requires_grad_()
        optimizer = torch.optim.SGD([pixels], lr=1.0, momentum=0.5)

        def step(iteration: int) -> None:
            network = published_network(self.spec, keyed_generator(0, "network", iteration))
            network.to(self.device).requires_grad_(False).train()
            loss = torch.zeros((), device=self.device)
            for label in range(self.sizes.classes):
                order = torch.randperm(self.per_class)[: self.sizes.real_batch]
                order = (order + label * self.per_class).to(self.device)
                generator = keyed_generator(0, "augment", iteration, label)
                draw = self.augmentation.draw(1, generator=generator)
                real = self.augmentation(images[order][None], draw)[0]
                synthetic = self.augmentation(pixels[label : label + 1], draw)[0]
                target = network(real).detach().mean(0)
                loss = loss + (target - network(synthetic).mean(0)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


def published_network(spec: DatasetSpec, generator: torch.Generator) -> nn.Sequential:
    """Build the ConvNet up to its features from PyTorch's layers, as published code does."""
    layers: list[nn.Module] = []
    for inputs in [spec.channels] + [WIDTH] * (depth_for(spec.resolution) - 1):
        layers += [
            skip_init(nn.Conv2d, inputs, WIDTH, kernel_size=3, padding=1),
            nn.GroupNorm(WIDTH, WIDTH),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        ]
    network = nn.Sequential(*layers, nn.Flatten())
    initialise_as_torch(network, generator=generator)
    return network
