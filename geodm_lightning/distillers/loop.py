"""The iterations of distillations: in lockstep, streamed, checkpointed, resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.state import capture, restore
from geodm_lightning.site import Site


class Member(NamedTuple):
    """One distillation among those that run in lockstep.

    Attributes:
        distiller: The module; its trackers receive the rows of its metrics.
        checkpoint: File it is saved to, and taken up from if it is there.
    """

    distiller: MatchingDistiller
    checkpoint: Path

    def resume(self) -> int:
        """Take up the checkpoint, if there is one.

        Returns:
            Iterations already made.

        Raises:
            InputError: If the checkpoint is damaged or of another run.
        """
        if self.checkpoint.is_file():
            restore(self.distiller, load_checkpoint(self.checkpoint))
        return self.distiller.iteration

    def save(self) -> None:
        """Gather the state on all processes and let the main one write it.

        Raises:
            InputError: If a loss since the last check is not finite; nothing is written.
        """
        self.distiller.terms.check_finite(self.distiller.iteration)
        state = capture(self.distiller)
        if self.distiller.processes.is_main:
            save_checkpoint(self.checkpoint, state)


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


class Lockstep(LightningModule):
    """Distillations that make the same iteration one after the other.

    Where they share their :class:`RealFeatures`, the real images of an iteration are embedded
    once for all of them. Each ends with the images it would have made alone.

    Args:
        members: The distillations; those that are ahead wait for the others.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.members = list(members)
        for index, member in enumerate(members):
            self.add_module(f"member_{index}", member.distiller)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimisers of all members."""
        return [o for m in self.members for o in m.distiller.configure_optimizers()]

    def waiting(self, iteration: int) -> list[Member]:
        """Return the members whose next iteration this is."""
        return [m for m in self.members if m.distiller.iteration == iteration]

    def training_step(self, iteration: int) -> None:
        """Run one iteration of every member that has not made it yet."""
        waiting = self.waiting(iteration)
        for feature_source in {id(m.distiller.real): m.distiller.real for m in waiting}.values():
            feature_source.num_users = sum(m.distiller.real is feature_source for m in waiting)
        for member in waiting:
            member.distiller.training_step(iteration)


class DistillationCheckpoint(Callback):
    """Saves the state of every distillation every few iterations and at the end.

    Args:
        every: Iterations between two checkpoints.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        """Save after every ``every``-th iteration those that made it."""
        assert isinstance(pl_module, Lockstep)
        if (batch + 1) % self.every == 0:
            for member in pl_module.waiting(batch + 1):
                member.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state."""
        assert isinstance(pl_module, Lockstep)
        for member in pl_module.members:
            member.save()


def run_distillations(
    members: Sequence[Member],
    *,
    num_iterations: int,
    checkpoint_every: int,
    site: Site,
    callbacks: Sequence[Callback],
) -> None:
    """Run distillations in lockstep to their end, each from the iteration it stands at.

    Args:
        members: Distillations; on return they hold their final images and geometry.
        num_iterations: Iterations of the whole run.
        checkpoint_every: Iterations between two checkpoints.
        site: Where to compute.
        callbacks: Further callbacks, such as a progress bar.

    Raises:
        InputError: If a loss is not finite; the last good checkpoints are kept.
    """
    first = min(member.distiller.iteration for member in members)
    if first >= num_iterations:
        return
    saving = DistillationCheckpoint(every=checkpoint_every)
    trainer = site.trainer(
        max_epochs=1, callbacks=[*(callbacks if site.processes.is_main else ()), saving]
    )
    trainer.fit(Lockstep(members), IterationStream(first, num_iterations))
