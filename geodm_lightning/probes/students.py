"""What it costs to train students on the sets of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.distillers.selection import random_selection
from geodm_lightning.evaluation.architecture import Architecture
from geodm_lightning.evaluation.candidate import Candidate, candidate_from_set
from geodm_lightning.evaluation.record import read_record, record_keys
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.labels.labeller import Labeller, OnlineLabels
from geodm_lightning.labels.own import OwnLabels
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone, ProbeSite, StepClock, Work
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.imported import OWN, path_of, read
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.sets import MOSAIC_FACTOR, gathered


class Row(NamedTuple):
    """A row of the table with what its students are, or will be, trained on.

    Attributes:
        method: The row.
        candidate: Its images, or others of the same number and size where they are not made yet.
        made: Whether they are its own.
    """

    method: Method
    candidate: Candidate
    made: bool

    @property
    def size(self) -> tuple[int, bool]:
        """What the cost of its students depends on: images, and whether they are all real ones."""
        return len(self.candidate.labels), self.candidate.ipc is None


class NoLabels:
    """Answers every view with zeros, in no time: reading a store is timed apart.

    Args:
        num_classes: Number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def logits(self, epoch: int, indices: Tensor, images: Tensor) -> Tensor:
        """Return zeros ``(n, K)``."""
        return torch.zeros(len(indices), self.num_classes, device=images.device)

    def identity(self) -> str:
        """Return what is not the identity of any labels."""
        return "none"


def rows_of(run: Run) -> list[Row]:
    """Return every row of a run with images to train on, its own where they are made."""
    return [row_of(run, method) for method in run.methods]


def row_of(run: Run, method: Method) -> Row:
    """Return one row; real images stand in for a set that is not made yet."""
    folder = run.folder.distilled(method.key, is_main=method.is_main)
    spec, ipc = run.data.spec, run.settings["ipc"]
    if method.kind == "whole" or is_complete(folder):
        return Row(method, candidate_of(run, method), made=True)
    if method.kind == "imported":
        distilled = read(method, path_of(method, run.seed), spec).distilled
        return Row(method, candidate_from_set(distilled, spec=spec, device=run.site.device), True)
    factor = MOSAIC_FACTOR if method.key == "mosaic" else 1
    if method.kind == "matching":
        factor = method.settings["distiller"]["factor"]
    chosen = random_selection(run.data.train, ipc=ipc, generator=keyed_generator(run.seed, "probe"))
    images = gathered(run.data.train, chosen).flatten(0, 1)
    if method.kind == "matching" and images.dtype == torch.uint8:
        images = images.float() / 255
    manifest = {
        "method": method.key,
        "label": method.label,
        "ipc": ipc,
        "factor": factor,
        "dataset": spec._asdict(),
    }
    labels = class_major_labels(spec.num_classes, ipc)
    candidate = candidate_from_set(
        DistilledSet(images, labels, manifest), spec=spec, device=run.site.device
    )
    return Row(method, candidate, made=False)


class Cell(NamedTuple):
    """What decides the cost of students, the number and size of their images aside.

    Attributes:
        supervision: What is learned of the images.
        architecture: Network of the students, with the protocol that trains it.
        labeller: Gives labels that cost what the real ones will, None for hard ones.
    """

    supervision: Supervision
    architecture: Architecture
    labeller: Labeller | None


def probe_students(run: Run) -> Iterator[Work]:
    """Measure one row of every kind, under every supervision and by every architecture.

    Args:
        run: The run, on a :class:`ProbeSite`.
    """
    architectures = assembly.build_architectures(run.settings, run.data.spec)
    rows, pools = rows_of(run), online_pools(run)
    for supervision in assembly.build_supervisions(run.settings):
        groups: dict[tuple[int, bool], list[Row]] = {}
        for row in rows:
            if learns(row, supervision):
                groups.setdefault(row.size, []).append(row)
        for architecture in architectures:
            for alike in groups.values():
                labeller = labeller_of(run, alike[0], supervision, pools)
                yield student_work(run, alike, Cell(supervision, architecture, labeller))


def learns(row: Row, supervision: Supervision) -> bool:
    """Whether a row has a cell under a supervision."""
    if supervision.teachers == OWN:
        return row.method.kind == "imported"
    return supervision.teachers is None or row.method.kind != "whole"


def online_pools(run: Run) -> dict[str, TeacherPool]:
    """Return the teachers that students ask at every step, none where labels are stored."""
    if run.settings["teachers"].get("labels") != "online":
        return {}
    assert isinstance(run.site, ProbeSite)
    alone = run.site._replace(processes=Alone())
    with alone.watch():
        return assembly.build_pools(run.settings, run.data, alone)


def labeller_of(
    run: Run, row: Row, supervision: Supervision, pools: dict[str, TeacherPool]
) -> Labeller | None:
    """Return what answers students at the cost of what will answer them."""
    num_classes = run.data.spec.num_classes
    if not supervision.needs_labels:
        return None
    if supervision.teachers == OWN and row.candidate.soft_labels is not None:
        return OwnLabels(row.candidate.soft_labels)
    if supervision.teachers in pools:
        return OnlineLabels(pools[supervision.teachers], num_classes=num_classes)
    return NoLabels(num_classes)


def student_work(run: Run, rows: list[Row], cell: Cell) -> Work:
    """Time some steps of the students of one row, and some batches of their test."""
    protocol = cell.architecture.protocol
    own = -(-protocol.num_students // world_of(run))
    clocks = timed_students(run, rows[0].candidate, cell, num_students=own)
    finished = [done_students(run, row, cell) for row in rows]
    waiting = [protocol.num_students - done for done in finished]
    share = sum(-(-count // world_of(run)) for count in waiting) / own  # of what was begun
    steps = sum(clock.planned for clock in clocks)
    training = sum(clock.planned * clock.per_step for clock in clocks)
    taught = "" if cell.labeller is None else cell.supervision.label
    names = ", ".join(row.method.label for row in rows)
    told = ", ".join(filter(None, (names, taught, cell.architecture.label)))
    return Work(
        "evaluate",
        f"{sum(waiting)} students on {told}",
        steps=round(share * steps),
        done=round(sum(finished) * steps / own),
        seconds_per_step=training / steps,
        fixed_seconds=share * sum(clock.began + clock.test_seconds for clock in clocks),
        memory=max(clock.memory for clock in clocks),
    )


def timed_students(
    run: Run, candidate: Candidate, cell: Cell, *, num_students: int
) -> list[StepClock]:
    """Begin the training of some students of one process; return its clocks."""
    assert isinstance(run.site, ProbeSite)
    alone = run.site._replace(processes=Alone())
    with alone.watch() as clocks, TemporaryDirectory() as folder:
        evaluate_students(
            candidate,
            test=run.data.test,
            protocol=replace(cell.architecture.protocol, num_students=num_students),
            seed=run.seed,
            folder=Path(folder),
            site=alone,
            supervision=cell.supervision,
            labeller=cell.labeller,
            together=run.settings["evaluation"].get("together", 1),
        )
    return clocks


def world_of(run: Run) -> int:
    """Return the processes that share the students of a run."""
    return run.site.processes.world_size


def done_students(run: Run, row: Row, cell: Cell) -> int:
    """Return the students of a row that an earlier start has finished.

    Only those on hard labels are looked for: whose labels soft ones are is known once they are
    made.
    """
    if not row.made or cell.labeller is not None:
        return 0
    protocol, learned = cell.architecture.protocol, cell.supervision.digest("")
    keys = record_keys(
        protocol.num_students, protocol.digest(), row.candidate.digest, run.seed, learned
    )
    folder = run.folder.students(row.method.key)
    return sum(read_record(folder, key) is not None for key in keys)
