"""The iterations of a distillation: streamed, checkpointed, resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.state import capture, restore
from geodm_lightning.site import Site


class IterationStream:
    """The numbers of the iterations still to run, as the training batches of a trainer.

    Args:
        start: First iteration.
        stop: Iteration after the last.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.iterations = range(start, stop)

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[int]:
        return iter(self.iterations)


class DistillationCheckpoint(Callback):
    """Saves the state of a distillation every few iterations and at the end.

    Args:
        path: File to write; it always holds the last good state.
        every: Iterations between two checkpoints.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        self.path = path
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Save after every ``every``-th iteration."""
        assert isinstance(pl_module, MatchingDistiller)
        if pl_module.iteration % self.every == 0:
            self.save(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state."""
        assert isinstance(pl_module, MatchingDistiller)
        self.save(pl_module)

    def save(self, distiller: MatchingDistiller) -> None:
        """Gather the state on all processes and let the main one write it.

        Raises:
            InputError: If a loss since the last check is not finite; nothing is written.
        """
        distiller.check_finite()
        state = capture(distiller)
        if distiller.processes.is_main:
            save_checkpoint(self.path, state)


def resume(distiller: MatchingDistiller, checkpoint: Path) -> int:
    """Take up a checkpoint, if there is one.

    Returns:
        Iterations already made.

    Raises:
        InputError: If the checkpoint is damaged or of another run.
    """
    if checkpoint.is_file():
        restore(distiller, load_checkpoint(checkpoint))
    return distiller.iteration


def run_distillation(
    distiller: MatchingDistiller,
    *,
    num_iterations: int,
    checkpoint: Path,
    checkpoint_every: int,
    site: Site,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
) -> None:
    """Run a distillation to its end, from the iteration it stands at.

    Args:
        distiller: Module to train; on return it holds the final images and geometry.
        num_iterations: Iterations of the whole run.
        checkpoint: File to save to.
        checkpoint_every: Iterations between two checkpoints.
        site: Where to compute.
        loggers: Receive the rows of the metrics, on the main process.
        callbacks: Further callbacks, such as a progress bar.

    Raises:
        InputError: If a loss is not finite; the last good checkpoint is kept.
    """
    if distiller.iteration >= num_iterations:
        return
    saving = DistillationCheckpoint(checkpoint, every=checkpoint_every)
    is_main = site.processes.is_main
    trainer = site.trainer(
        max_epochs=1,
        logger=list(loggers) if is_main and loggers else False,
        callbacks=[*(callbacks if is_main else ()), saving],
    )
    trainer.fit(distiller, IterationStream(distiller.iteration, num_iterations))
