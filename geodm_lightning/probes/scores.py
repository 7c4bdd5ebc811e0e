"""What it costs to train the students that robust scores are made of."""

from __future__ import annotations

from collections.abc import Iterator

from geodm_lightning import assembly
from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.data.datamodule import held_out
from geodm_lightning.evaluation.architecture import Architecture
from geodm_lightning.labels.labeller import Labeller, OnlineLabels
from geodm_lightning.probes.probe import Alone, ProbeSite, Work
from geodm_lightning.probes.students import Cell, Row, labeller_of, row_of, timed_students, world_of
from geodm_lightning.stages.cohorts import Trial, num_done, num_students
from geodm_lightning.stages.imported import OWN
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.score import SCORES, scored_rows
from geodm_lightning.stages.score_cells import Taught, taught_cells


def probe_scores(run: Run) -> Iterator[Work]:
    """Measure a cell of every kind that scores train students on; finished ones are taken off.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
    """
    if (run.folder.path / SCORES).is_file():
        return
    options = ScoreOptions.from_settings(run.settings)
    for trials in kinds_of(score_trials(run, options)):
        yield trials_work(run, trials, options)


def trials_work(run: Run, trials: list[Trial], options: ScoreOptions) -> Work:
    """Time the students of one of the cells that cost alike."""
    first, world = trials[0], world_of(run)
    total = sum(num_students(trial, options) for trial in trials)
    done = sum(num_done(trial, options, seed=run.seed) for trial in trials)
    begun = -(-first.protocol.num_students // world)
    cell = Cell(first.supervision, Architecture("", "", first.protocol), first.labeller)
    clocks = timed_students(run, first.candidate, cell, num_students=begun)
    share = -(-(total - done) // world) / begun
    steps = sum(clock.planned for clock in clocks)
    training = sum(clock.planned * clock.per_step for clock in clocks)
    return Work(
        "score",
        f"{total - done} students on {first.candidate.label}",
        steps=round(share * steps),
        done=round(done * steps / begun),
        seconds_per_step=training / steps,
        fixed_seconds=share * sum(clock.began + clock.test_seconds for clock in clocks),
        memory=max(clock.memory for clock in clocks),
        shared=first.images == "whole",
    )


def score_trials(run: Run, options: ScoreOptions) -> list[Trial]:
    """Return the cells of the scores of a run, each once; real images stand in for lacking sets."""
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    table = run.data.train
    held = held_out(table, share=options.validation, key="scores.validation")
    rest = table.select((~held).nonzero().flatten())
    rows = [row_of(run, method) for method in scored_rows(run, options)]
    soft = soft_labels(run, rows[0]) if rows else None
    trials = [
        trial
        for row in rows
        for trial in taught_cells(
            run, row.method, row.candidate, soft, rest=rest, protocol=protocol
        )
    ]
    return list({tuple(trial.identity()): trial for trial in trials}.values())


def kinds_of(trials: list[Trial]) -> list[list[Trial]]:
    """Group cells by what they cost: images, and who labels them; augmentation costs little."""
    kinds: dict[tuple[str, int, str], list[Trial]] = {}
    for trial in trials:
        kind = (trial.images, len(trial.candidate.labels), trial.supervision.name)
        kinds.setdefault(kind, []).append(trial)
    return list(kinds.values())


def soft_labels(run: Run, row: Row) -> Taught | None:
    """Return the first soft supervision of a run, whose teachers scores ask at every step."""
    for supervision in assembly.build_supervisions(run.settings):
        if supervision.teachers is None:
            continue
        labeller: Labeller | None = labeller_of(run, row, supervision, {})
        if supervision.teachers != OWN:
            assert isinstance(run.site, ProbeSite)
            alone = run.site._replace(processes=Alone())
            with alone.watch():
                pool = assembly.build_pools(run.settings, run.data, alone)[supervision.teachers]
            labeller = OnlineLabels(pool, num_classes=run.data.spec.num_classes)
        return Taught(supervision, labeller)
    return None
