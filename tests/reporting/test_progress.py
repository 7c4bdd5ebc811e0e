"""Progress: a bar where someone watches, two lines where no one does."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from geodm_lightning.reporting import progress as module
from geodm_lightning.reporting.progress import StudentProgress, TrainingProgress


def run(callback, *, steps=20, fail_at=None, indices=(0,)) -> None:
    trainer = SimpleNamespace(num_training_batches=steps, progress_bar_metrics={})
    student = SimpleNamespace(indices=indices)
    callback.on_train_start(trainer, student)
    for step in range(steps):
        if step == fail_at:
            callback.on_exception(trainer, student, RuntimeError())
            return
        trainer.progress_bar_metrics["loss"] = 3.21
        callback.on_train_batch_end(trainer, student, None, None, step)
    callback.on_train_end(trainer, student)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120, color_system=None), file


def test_log_files_get_two_lines():
    out, file = console(terminal=False)
    run(TrainingProgress("distil [GeoDM]", num_steps=120, first_step=100, console=out))
    first, last = file.getvalue().splitlines()
    assert first == "distil [GeoDM]: 20 steps"
    assert last.startswith("distil [GeoDM]: done in ")
    assert last.endswith("it/s, loss 3.21")


def test_terminal_shows_where_a_resumed_training_is():
    out, file = console(terminal=True)
    run(TrainingProgress("distil GeoDM", num_steps=120, first_step=100, console=out))
    last = file.getvalue()[file.getvalue().rindex("distil GeoDM") :]
    assert "120/120" in last
    assert "loss 3.21" in last


def test_students_are_counted_from_one():
    out, file = console(terminal=False)
    callback = StudentProgress("GeoDM", num_students=5, console=out)
    run(callback, indices=(0,))
    run(callback, indices=(1, 3, 4))
    lines = file.getvalue().splitlines()
    assert lines[0] == "student 1/5 on GeoDM: 20 steps"
    assert lines[2] == "students 2, 4, 5/5 on GeoDM: 20 steps"


def test_terminal_is_given_back_after_an_error():
    out, file = console(terminal=True)
    run(TrainingProgress("distil", console=out), fail_at=3)
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert file.getvalue().rindex(show) > file.getvalue().rindex(hide)


def test_bar_moves_at_most_ten_times_per_second(monkeypatch: pytest.MonkeyPatch):
    out, _ = console(terminal=True)
    callback = TrainingProgress("distil", console=out)
    ticks = iter(range(10_000))
    clock = SimpleNamespace(monotonic=lambda: 100 + next(ticks) * 0.01)
    monkeypatch.setattr(module, "time", clock)
    moves = []
    trainer = SimpleNamespace(num_training_batches=1000, progress_bar_metrics={})
    callback.on_train_start(trainer, SimpleNamespace())
    assert callback._progress is not None
    monkeypatch.setattr(callback._progress, "update", lambda *_, **kwargs: moves.append(kwargs))
    for step in range(1000):  # ten seconds
        callback.on_train_batch_end(trainer, SimpleNamespace(), None, None, step)
    callback._close()
    assert 90 <= len(moves) <= 101
