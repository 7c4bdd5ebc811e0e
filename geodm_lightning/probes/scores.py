"""What it costs to train the students that robust scores are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from geodm_lightning import assembly
from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.evaluation.supervision import HARD
from geodm_lightning.labels.labeller import Labeller, OnlineLabels
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone, ProbeSite, Work
from geodm_lightning.probes.students import Cell, Row, labeller_of, row_of, timed_students, world_of
from geodm_lightning.stages.imported import OWN
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.score import SCORES, scored_rows


class Scored(NamedTuple):
    """Cells of scores that cost alike.

    Attributes:
        row: Images that are trained on.
        cell: What is learned of them.
        num_cells: How many they are.
        shared: Whether all runs share their records.
    """

    row: Row
    cell: Cell
    num_cells: int
    shared: bool = False


def probe_scores(run: Run) -> Iterator[Work]:
    """Measure a row of every kind that scores train students on; finished ones are not taken off.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
    """
    if (run.folder.path / SCORES).is_file():
        return
    options = ScoreOptions.from_settings(run.settings)
    for scored in scored_cells(run, options):
        protocol = scored.cell.architecture.protocol
        each = len(options.rates) * options.students_per_rate + protocol.num_students
        begun = -(-protocol.num_students // world_of(run))
        clocks = timed_students(run, scored.row.candidate, scored.cell, num_students=begun)
        share = -(-scored.num_cells * each // world_of(run)) / begun
        steps = sum(clock.planned for clock in clocks)
        training = sum(clock.planned * clock.per_step for clock in clocks)
        yield Work(
            "score",
            f"{scored.num_cells * each} students on {scored.row.method.label}",
            steps=round(share * steps),
            seconds_per_step=training / steps,
            fixed_seconds=share * sum(clock.began + clock.test_seconds for clock in clocks),
            memory=max(clock.memory for clock in clocks),
            shared=scored.shared,
        )


def scored_cells(run: Run, options: ScoreOptions) -> list[Scored]:
    """Return the cells of the scores of a run: with augmentation and without, sets and random.

    Where there are soft labels, sets have a cell more, of those or of their classes.
    """
    architecture = assembly.build_architectures(run.settings, run.data.spec)[0]
    hard = Cell(HARD, architecture, None)
    rows = [row_of(run, method) for method in scored_rows(run, options)]
    if not rows:
        return []
    taught = soft_cell(run, rows[0], hard)
    is_own = taught is not None and taught.supervision.teachers == OWN
    usual = hard if taught is None or is_own else taught
    other = taught if is_own else hard
    settings = run.settings
    random, whole = (
        row_of(run, Method(key, label, kind, settings))
        for key, label, kind in (
            ("random", "Random real images", "selection"),
            ("whole", "Whole training set", "whole"),
        )
    )
    cells = [Scored(row, usual, 2) for row in rows] + [Scored(random, usual, 2)]
    if taught is not None and other is not None:
        cells += [Scored(row, other, 1) for row in rows]
    return [*cells, Scored(whole, hard, 1, shared=True)]


def soft_cell(run: Run, row: Row, hard: Cell) -> Cell | None:
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
        return Cell(supervision, hard.architecture, labeller)
    return None
