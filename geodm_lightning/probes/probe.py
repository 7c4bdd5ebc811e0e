"""A few real steps of each training, timed: what an estimate is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from geodm_lightning.memory import held_bytes, traced
from geodm_lightning.processes import Processes
from geodm_lightning.site import Site

WARM_UP = 2  # steps not timed: the first makes what later ones reuse, the second is traced
TRACED = 1
FEWEST = 3  # steps timed at least, where there are as many
SHORT = 8  # steps of a training that is not worth cutting short
BUDGET = 1.5  # seconds of timed steps of a training
TEST_BATCHES = 4  # batches of a test pass that are looked at, the first of them untimed
Kind = tuple[str, int, int]  # what is trained, its parameters, its steps


class Work(NamedTuple):
    """A part of a run: what is still to do and what it costs.

    Attributes:
        stage: Stage it belongs to.
        what: What it is, for readers.
        steps: Steps still to make, of the process that makes most of them.
        done: Steps an earlier start has made.
        seconds_per_step: Measured.
        fixed_seconds: Measured beside the steps, over all of them: building, testing, saving.
        memory: Most bytes of a process meanwhile.
        disk: Bytes still to be written.
        advice: What to lower where memory will not do, empty where it will.
        shared: Whether it is made once for all seeds.
    """

    stage: str
    what: str
    steps: int
    done: int = 0
    seconds_per_step: float = 0.0
    fixed_seconds: float = 0.0
    memory: int = 0
    disk: int = 0
    advice: str = ""
    shared: bool = False

    @property
    def seconds(self) -> float:
        """Wall-clock seconds still needed."""
        return self.steps * self.seconds_per_step + self.fixed_seconds


class Alone(Processes):
    """A place among several processes of which only this one is there.

    Classes and students are divided as they will be; what would be added up over all processes
    is what this one has, so only times and sizes mean anything.
    """

    def sum_(self, tensor: Tensor) -> Tensor:
        """Return the tensor as it is."""
        return tensor

    def gather(self, owned: Tensor, num_items: int) -> Tensor:
        """Return all items, those of others being zero."""
        whole = owned.new_zeros(num_items, *owned.shape[1:])
        whole[self.shard(num_items)] = owned
        return whole

    def barrier(self) -> None:
        """Wait for no one."""


class StepClock(Callback):
    """Times the steps of one training and stops it once enough are timed.

    Args:
        device: Whose work is waited for.
        known: Clocks of trainings that were timed before, by what they train; a training that is
            alike is stopped after its first step.

    Attributes:
        planned: Batches the trainer was given.
        seconds: Of each timed step.
        memory: Most bytes held: before the training with the most of the traced step beyond, or
            on a CPU after a step, where its heap has grown to more.
        test_seconds: Of a whole test pass, from a few batches of every loader.
        began: Seconds from making the clock to the first step.
        lifetime: Seconds from making the clock to the end of the training.
    """

    def __init__(self, device: torch.device, known: dict[Kind, StepClock]) -> None:
        self.device = device
        self._known = known
        self._alike: StepClock | None = None
        self.planned = 0
        self.seconds: list[float] = []
        self.memory = 0
        self.test_seconds = 0.0
        self.began = 0.0
        self.lifetime = 0.0
        self._held = held_bytes(device)
        self._made = time.perf_counter()
        self._last = self._made
        self._step = -1
        self._first_step = 0.0
        self._peak: Callable[[], int] = int
        self._tracing = ExitStack()
        self._test_times: dict[int, list[float]] = {}

    @property
    def per_step(self) -> float:
        """Seconds of a step; of the first one where no other was made."""
        if self._alike is not None:
            return self._alike.per_step
        return sum(self.seconds) / len(self.seconds) if self.seconds else self._first_step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how long building took and how many batches there would be."""
        batches = int(min(trainer.num_training_batches, 2**40))
        self.planned = batches * max(1, (trainer.max_epochs or 1) - trainer.current_epoch)
        # A diffusion model is trained by stretches, of which the last may be shorter.
        own = getattr(getattr(pl_module, "settings", None), "num_steps", 0)
        for most in (trainer.max_steps, own - trainer.global_step):
            self.planned = min(self.planned, most) if most > 0 else self.planned
        size = sum(parameter.numel() for parameter in pl_module.parameters())
        kind = (type(pl_module).__name__, size, self.planned)
        self._alike = self._known.get(kind) if self.planned > SHORT else None
        if self._alike is None:
            self._known[kind] = self
        self.began = self._lap()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Follow the memory of the second step."""
        self._step += 1
        if self._step == TRACED:
            self._peak = self._tracing.enter_context(traced(self.device))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time a step and end the training once enough were timed."""
        spent = self._lap()
        if self._step == TRACED:
            self._tracing.close()
            self.memory = self._held + self._peak()
        elif self._step == 0:
            self._first_step = spent
        if self._step >= WARM_UP:
            self.seconds.append(spent)
        enough = len(self.seconds) >= FEWEST and sum(self.seconds) >= BUDGET
        if self._alike is not None or enough:
            self.memory = max(self.memory, held_bytes(self.device))
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how long the probe of a training took."""
        self.lifetime = time.perf_counter() - self._made

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to time the test."""
        self._lap()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Time a batch of the test."""
        self._test_times.setdefault(dataloader_idx, []).append(self._lap())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Extend the batches seen to whole loaders."""
        loaders = trainer.test_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        for index, times in self._test_times.items():
            timed = times[1:] or times
            self.test_seconds += len(loaders[index]) * sum(timed) / len(timed)

    def _lap(self) -> float:
        """Return the seconds since the last call, the device being waited for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._last, spent = now, now - self._last
        return spent


class ProbeSite(Site):
    """A site whose trainers stop after a few timed steps; see :meth:`watch`.

    It takes the place of the site of a run, so that the code that is timed is that of the run.
    """

    clocks: list[StepClock]

    @contextmanager
    def watch(self) -> Iterator[list[StepClock]]:
        """Collect the clocks of the trainings inside a block; alike ones are timed once."""
        self.clocks = []
        self._known: dict[Kind, StepClock] = {}
        yield self.clocks

    def trainer(self, **options: Any) -> Trainer:
        """Make a trainer that is timed and stops early."""
        clock = StepClock(self.device, self._known)
        self.clocks.append(clock)
        callbacks = [*(options.pop("callbacks", None) or ()), clock]
        return super().trainer(**options, callbacks=callbacks, limit_test_batches=TEST_BATCHES)


def one_training(stage: str, what: str, clock: StepClock) -> Work:
    """Return the cost of a training that one process makes for all seeds."""
    return Work(
        stage,
        what,
        steps=clock.planned,
        seconds_per_step=clock.per_step,
        fixed_seconds=clock.began,
        memory=clock.memory,
        shared=True,
    )
