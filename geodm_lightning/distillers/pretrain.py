"""Networks trained on real images: the pool of NCFM and the embedding of herding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.batches import Fetch, LabelledBatches, fetch_from_table
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.files import name_of
from geodm_lightning.networks.classifier import Classifier
from geodm_lightning.networks.network import Network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site

Builder = Callable[[torch.Generator], Network]
State = dict[str, Tensor]


class PretrainSettings(NamedTuple):
    """How a network is trained on all real images.

    Attributes:
        epochs: Passes over the training set (NCFM: 60).
        batch_size: Images per step (NCFM).
        lr: Learning rate of SGD, ×0.2 after 2/3 and 5/6 of the steps (NCFM).
        momentum: Momentum of SGD (NCFM).
        weight_decay: Weight decay of SGD (NCFM).
        max_steps: Cap on the optimiser steps, None for no cap.
    """

    epochs: int = 60
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_steps: int | None = None

    def num_steps(self, num_images: int) -> int:
        """Return the optimiser steps on a training set of ``num_images``."""
        full = self.epochs * -(-num_images // self.batch_size)
        return full if self.max_steps is None else min(full, self.max_steps)


def pretrained_states(
    table: ImageTable,
    build: Builder,
    *,
    count: int,
    settings: PretrainSettings,
    augmentation: Augmentation,
    cutmix_probability: float,
    folder: Path,
    identity: dict[str, Any],
    seed: int,
    site: Site,
    fetch: Fetch | None = None,
) -> tuple[list[State], list[State]]:
    """Train networks on real images, or read those trained before.

    Networks are spread over the processes and kept one file each, so an interrupted
    training goes on with the first network that is missing.

    Args:
        table: Real training images.
        build: Makes a network from a generator.
        count: Networks to train.
        settings: How each is trained.
        augmentation: Augmentation of the training batches.
        cutmix_probability: Chance of a batch to be mixed by CutMix.
        folder: Folder of all pools.
        identity: Plain values that decide the weights; pools of another identity lie elsewhere.
        seed: Seed of weights, order and augmentation.
        site: Where to compute.
        fetch: Maps indices to normalised images; the table's own when omitted.

    Returns:
        Initial and final state dictionaries, ``count`` of each, on the CPU.

    Raises:
        InputError: If a file of the pool is damaged or the folder cannot be written.
    """
    identity = {**identity, **site.identity, "settings": settings._asdict(), "seed": seed}
    name = f"{table.spec.name}-{name_of(identity)}"
    paths = [folder / name / f"network_{index:02d}.ckpt" for index in range(count)]
    for index in range(count)[site.processes.rank :: site.processes.world_size]:
        if not paths[index].is_file():
            batches = LabelledBatches(
                fetch or fetch_from_table(table),
                table.labels,
                batch_size=settings.batch_size,
                num_steps=settings.num_steps(len(table)),
                key=(seed, "pretrain", index),
                augmentation=augmentation,
                cutmix_probability=cutmix_probability,
            )
            generator = keyed_generator(seed, "pretrain", index, "weights")
            state = train_network(build(generator), batches, settings=settings, site=site)
            save_checkpoint(paths[index], state)
    site.processes.barrier()
    states = [load_checkpoint(path) for path in paths]
    return [state["initial"] for state in states], [state["final"] for state in states]


def train_network(
    network: Network, batches: LabelledBatches, *, settings: PretrainSettings, site: Site
) -> dict[str, State]:
    """Train one network and return its ``initial`` and ``final`` state, on the CPU."""
    initial = _copy_of(network)
    num_steps = len(batches)

    def optimizer(parameters: Iterator[torch.nn.Parameter]) -> Optimizer:
        return SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def scheduler(optimizer: Optimizer) -> MultiStepLR:
        return MultiStepLR(optimizer, [num_steps * 2 // 3, num_steps * 5 // 6], gamma=0.2)

    classifier = Classifier(network, optimizer=optimizer, scheduler=scheduler)
    site.trainer(max_epochs=1).fit(classifier, batches)
    return {"initial": initial, "final": _copy_of(network)}


def _copy_of(network: Network) -> State:
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
