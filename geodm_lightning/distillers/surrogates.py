"""States of one network along its training on real images: what IGD's influence is measured by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from geodm_lightning.data.batches import LabelledBatches, fetch_from_table
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.distillers.pretrain import Builder, State
from geodm_lightning.files import name_of
from geodm_lightning.networks.classifier import Classifier
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError


class SurrogateSettings(NamedTuple):
    """How a surrogate is trained, IGD's numbers.

    Attributes:
        epochs: After how many passes a state is kept, rising from 0.
        batch_size: Images per step.
        lr: Learning rate of SGD, held.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        max_steps: Cap on the steps of the training, None for no cap; states move along.
    """

    epochs: tuple[int, ...] = (0, 5, 16, 40)
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_steps: int | None = None

    def steps(self, num_images: int) -> list[int]:
        """Return the steps after which a state is kept.

        Raises:
            InputError: If the epochs do not rise from 0 or more.
        """
        epochs = list(self.epochs)
        if not epochs or epochs[0] < 0 or epochs != sorted(set(epochs)):
            raise InputError(f"surrogate epochs must rise from 0 or more, got {epochs}")
        full = [epoch * -(-num_images // self.batch_size) for epoch in epochs]
        if self.max_steps is None or full[-1] <= self.max_steps:
            return full
        return [round(step * self.max_steps / full[-1]) for step in full]


def trained_surrogates(
    table: ImageTable,
    build: Builder,
    *,
    settings: SurrogateSettings,
    folder: Path,
    identity: dict[str, Any],
    seed: int,
    site: Site,
) -> list[State]:
    """Train a surrogate and keep its states, or read those kept before.

    IGD trains without augmentation and mixing. The main process trains, the others wait.

    Args:
        table: Real training images.
        build: Makes the network from a generator.
        settings: How it is trained and when a state is kept.
        folder: Folder of all surrogates.
        identity: Plain values that decide the weights beside ``settings`` and ``seed``.
        seed: Seed of weights and order.
        site: Where to compute.

    Returns:
        One state dictionary for each of ``settings.epochs``, on the CPU.

    Raises:
        InputError: If the file is damaged or cannot be written, or the epochs do not rise.
    """
    steps = settings.steps(len(table))
    identity = {**identity, "settings": settings._asdict(), "seed": seed}
    path = folder / f"{table.spec.name}-{name_of(identity)}" / "surrogate.ckpt"
    if site.processes.is_main and not path.is_file():
        network = build(keyed_generator(seed, "surrogate"))
        keeper = _Keeper(steps)
        keeper.look(network, 0)
        if steps[-1] > 0:

            def optimizer(parameters: Iterator[Parameter]) -> Optimizer:
                return SGD(
                    parameters,
                    lr=settings.lr,
                    momentum=settings.momentum,
                    weight_decay=settings.weight_decay,
                )

            batches = LabelledBatches(
                fetch_from_table(table),
                table.labels,
                batch_size=settings.batch_size,
                num_steps=steps[-1],
                key=(seed, "surrogate order"),
            )
            trainer = site.trainer(max_epochs=1, callbacks=[keeper])
            trainer.fit(Classifier(network, optimizer=optimizer), batches)
        save_checkpoint(path, {"states": keeper.states})
    site.processes.barrier()
    return load_checkpoint(path)["states"]


class _Keeper(Callback):
    """Copies the state of a network after chosen steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps
        self.states: list[State] = []

    def look(self, network: Any, step: int) -> None:
        for _ in range(self.steps.count(step)):
            state = network.state_dict()
            self.states.append({k: value.detach().cpu().clone() for k, value in state.items()})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.look(pl_module.network, batch_idx + 1)
