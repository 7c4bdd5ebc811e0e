"""Progress on the terminal: a bar per training, or two plain lines where no one watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

REFRESHES_PER_SECOND = 10


class TrainingProgress(Callback):
    """Shows how far one training is, at most ten times per second.

    Numbers are those the module leaves in ``trainer.progress_bar_metrics``; the callback never
    asks the device for one. Where the output is not a terminal, one line tells the start and
    one the end.

    Args:
        title: What is trained, such as ``"distil GeoDM"``.
        num_steps: Steps of the whole training; those of the trainer when None.
        first_step: Steps an earlier, interrupted run has made.
        console: Where to print; standard output when None.
    """

    def __init__(
        self,
        title: str,
        *,
        num_steps: int | None = None,
        first_step: int = 0,
        console: Console | None = None,
    ) -> None:
        self.title = title
        self.console = console or Console()
        self._num_steps = num_steps
        self._first_step = first_step
        self._step = first_step
        self._total = 0
        self._started = self._shown = 0.0
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def describe(self, module: LightningModule) -> str:
        """Return what is written before the bar."""
        return self.title

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self._total = self._num_steps or self._first_step + int(trainer.num_training_batches)
        self._step = self._first_step
        self._started, self._shown = time.monotonic(), 0.0
        text = self.describe(pl_module)
        if not self.console.is_terminal:
            self._print(f"{text}: {self._total - self._first_step} steps")
            return
        self._progress = _new_progress(self.console)
        self._task = self._progress.add_task(
            text, total=self._total, completed=self._first_step, loss=""
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, if the last move is a tenth of a second ago."""
        self._step += 1
        now = time.monotonic()
        if self._progress is None or now - self._shown < 1 / REFRESHES_PER_SECOND:
            return
        self._shown = now
        self._progress.update(self._task, completed=self._step, loss=_loss_text(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar and leave its last state on the screen."""
        if self._progress is not None:
            self._progress.update(self._task, completed=self._step, loss=_loss_text(trainer))
            self._close()
            return
        seconds = time.monotonic() - self._started
        speed = (self._step - self._first_step) / max(seconds, 1e-9)
        loss = _loss_text(trainer)
        self._print(
            f"{self.describe(pl_module)}: done in {seconds:.1f} s, {speed:.1f} it/s"
            + (f", {loss}" if loss else "")
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back before the error is shown."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class StudentProgress(TrainingProgress):
    """One bar after the other for the students of a set.

    Args:
        label: Name of the method whose set is judged.
        num_students: Students to be trained in all.
        console: Where to print; standard output when None.
    """

    def __init__(self, label: str, *, num_students: int, console: Console | None = None) -> None:
        super().__init__(f"student on {label}", console=console)
        self._label = label
        self._num_students = num_students

    def describe(self, module: LightningModule) -> str:
        """Return ``student 2/5 on GeoDM``, or ``students 1, 2/5 on GeoDM`` of two at once."""
        numbers = [index + 1 for index in module.indices]  # type: ignore[union-attr]
        noun = "student" if len(numbers) == 1 else "students"
        listed = ", ".join(map(str, numbers))
        return f"{noun} {listed}/{self._num_students} on {self._label}"


@contextmanager
def counted(title: str, *, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show how far something is that no trainer runs; nothing where there is nothing to do.

    Args:
        title: What is made, such as ``"sample images"``.
        total: How many.
        console: Where to print.

    Yields:
        A function to be told how many more are there.
    """
    if not total:
        yield lambda count: None
        return
    if not console.is_terminal:
        started = time.monotonic()
        console.print(f"{title}: {total}", markup=False, highlight=False, soft_wrap=True)
        yield lambda count: None
        seconds = time.monotonic() - started
        text = f"{title}: done in {seconds:.1f} s, {total / max(seconds, 1e-9):.1f} it/s"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    with _new_progress(console) as progress:
        task = progress.add_task(title, total=total, loss="")
        yield lambda count: progress.advance(task, count)


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the steps per second, measured by rich over the last moves."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} it/s", style="cyan")


def _new_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", markup=False),
        _SpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
    )


def _loss_text(trainer: Trainer) -> str:
    loss = trainer.progress_bar_metrics.get("loss")
    return "" if loss is None else f"loss {float(loss):.3g}"
