"""Diffusion models trained on the real images, kept beside the runs that share them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from geodm_lightning.data.table import ImageTable
from geodm_lightning.diffusion.weights import CONFIG, save_weights
from geodm_lightning.distillers.real_latents import resized
from geodm_lightning.files import name_of, write_atomically
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError

STRETCH = 200  # steps between two checkpoints: what a killed training loses at most
CHECKPOINT = "last.ckpt"


class UnitBatches:
    """Batches ``(unit-range images (n, ch, h, w), labels (n,))`` of consecutive steps.

    The order of an epoch and the mirroring of a step are keyed by their number.

    Args:
        table: Real training images.
        steps: Steps to yield, of a stream over all epochs.
        batch_size: Images per step; the rest of an epoch that fills no batch is left out.
        resolution: Height and width of the images; others are resized.
        seed: Seed of order and mirroring.
    """

    def __init__(
        self, table: ImageTable, steps: range, *, batch_size: int, resolution: int, seed: int
    ) -> None:
        self.table = table
        self.steps = steps
        self.batch_size = min(batch_size, len(table))
        self.resolution = resolution
        self.seed = seed

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        per_epoch = len(self.table) // self.batch_size
        order, drawn = torch.empty(0), -1
        for step in self.steps:
            epoch, position = divmod(step, per_epoch)
            if epoch != drawn:
                generator = keyed_generator(self.seed, "diffusion order", epoch)
                order, drawn = torch.randperm(len(self.table), generator=generator), epoch
            indices = order[position * self.batch_size :][: self.batch_size]
            images = resized(self.table.gather(indices), self.resolution)
            if self.table.spec.flip:
                generator = keyed_generator(self.seed, "diffusion flip", step)
                mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
                images = torch.where(mirrored.to(images.device), images.flip(-1), images)
            yield images, self.table.labels[indices.to(self.table.device)]


class Stretches(lightning.LightningDataModule):
    """The steps of a training, a stretch for each epoch of the trainer."""

    def __init__(self, batches: Callable[[range], UnitBatches], *, num_steps: int) -> None:
        super().__init__()
        self._batches = batches
        self._num_steps = num_steps

    def train_dataloader(self) -> UnitBatches:
        """Return the batches of the stretch that comes next."""
        assert self.trainer is not None
        first = self.trainer.current_epoch * STRETCH
        return self._batches(range(first, min(first + STRETCH, self._num_steps)))


class StretchCheckpoint(Callback):
    """Saves the whole training after every stretch but the last, after which it is over.

    Args:
        path: The one checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, whole or not at all."""
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            write_atomically(self.path, trainer.save_checkpoint)


def trained_model(
    build: Callable[[], LightningModule],
    result: Callable[[LightningModule], nn.Module],
    *,
    table: ImageTable,
    folder: Path,
    identity: dict[str, Any],
    num_steps: int,
    batch_size: int,
    resolution: int,
    seed: int,
    site: Site,
    callbacks: Callable[[int], Sequence[Callback]],
) -> Path:
    """Train a model on real images, or return the one trained before.

    The main process trains, the others wait. A killed training goes on from its last stretch
    and ends with the very weights it would have had.

    Args:
        build: Makes the training module, from weights that ``identity`` decides.
        result: Takes the finished model out of it.
        table: Real training images.
        folder: Folder of all models.
        identity: Plain values that decide the weights; another identity lies in another folder.
        num_steps: Optimiser steps.
        batch_size: Images per step.
        resolution: Height and width of the images.
        seed: Seed of order and mirroring.
        site: Where to compute.
        callbacks: Makes further callbacks from the first step to be made.

    Returns:
        Folder of the model, as ``save_pretrained`` lays it out.

    Raises:
        InputError: If the checkpoint is damaged or the folder cannot be written.
    """
    identity = {
        **identity,
        **site.identity,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "resolution": resolution,
        "seed": seed,
    }
    folder = folder / f"{table.spec.name}-{name_of(identity)}"
    if site.processes.is_main and not (folder / CONFIG).is_file():

        def batches(steps: range) -> UnitBatches:
            return UnitBatches(
                table, steps, batch_size=batch_size, resolution=resolution, seed=seed
            )

        module, checkpoint = build(), folder / CHECKPOINT
        trainer = site.trainer(
            max_epochs=-(-num_steps // STRETCH),
            reload_dataloaders_every_n_epochs=1,
            callbacks=[StretchCheckpoint(checkpoint), *callbacks(_steps_made(checkpoint))],
        )
        stream = Stretches(batches, num_steps=num_steps)
        with warnings.catch_warnings():
            # These modules stay in evaluation mode on purpose: see DenoiserTraining.train.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
            trainer.fit(module, stream, ckpt_path=checkpoint if checkpoint.is_file() else None)
        save_weights(result(module).cpu(), folder)
        checkpoint.unlink(missing_ok=True)
    site.processes.barrier()
    return folder


def _steps_made(checkpoint: Path) -> int:
    """Return the steps behind a checkpoint, 0 where there is none.

    Raises:
        InputError: If it is damaged.
    """
    if not checkpoint.is_file():
        return 0
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:
        raise InputError(
            f"damaged checkpoint {checkpoint}: {str(error).splitlines()[0]}; delete it to train "
            "the model anew"
        ) from error
