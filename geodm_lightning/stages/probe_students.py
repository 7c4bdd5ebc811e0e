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
from geodm_lightning.evaluation.candidate import Candidate, candidate_from_set
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import RecordKey, read_record
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.methods import Method
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.imported import path_of, read
from geodm_lightning.stages.probe import Alone, ProbeSite, Work
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


def probe_students(run: Run) -> Iterator[Work]:
    """Measure one student of every kind of row, supervision and architecture.

    Args:
        run: The run, on a :class:`ProbeSite`.
    """
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    groups: dict[tuple[tuple[int, bool], str], list[Row]] = {}
    supervisions = {s.name: s for s in assembly.build_supervisions(run.settings)}
    for row in rows_of(run):
        for supervision in supervisions.values():
            if supervision.teachers is None or row.method.kind != "whole":
                groups.setdefault((row.size, supervision.name), []).append(row)
    for (_, name), alike in groups.items():
        yield student_work(run, alike, supervisions[name], protocol)


def student_work(run: Run, rows: list[Row], supervision: Supervision, protocol: Protocol) -> Work:
    """Time some steps of the students of one row, and some batches of their test."""
    site, candidate = run.site, rows[0].candidate
    assert isinstance(site, ProbeSite)
    alone, own = site._replace(processes=Alone()), -(-protocol.num_students // world_of(run))
    with alone.watch() as clocks, TemporaryDirectory() as folder:
        evaluate_students(
            candidate,
            test=run.data.test,
            protocol=replace(protocol, num_students=own),
            seed=run.seed,
            folder=Path(folder),
            site=alone,
            supervision=supervision,
            labeller=NoLabels(run.data.spec.num_classes) if supervision.needs_labels else None,
        )
    finished = [done_students(run, row, supervision, protocol) for row in rows]
    waiting = [protocol.num_students - done for done in finished]
    share = sum(-(-count // world_of(run)) for count in waiting) / own  # of what was begun
    steps = sum(clock.planned for clock in clocks)
    training = sum(clock.planned * clock.per_step for clock in clocks)
    told = "" if supervision.teachers is None else f", {supervision.label}"
    what = ", ".join(row.method.label for row in rows)
    return Work(
        "evaluate",
        f"{sum(waiting)} students on {what}{told}",
        steps=round(share * steps),
        done=round(sum(finished) * steps / own),
        seconds_per_step=training / steps,
        fixed_seconds=share * sum(clock.began + clock.test_seconds for clock in clocks),
        memory=max(clock.memory for clock in clocks),
    )


def world_of(run: Run) -> int:
    """Return the processes that share the students of a run."""
    return run.site.processes.world_size


def done_students(run: Run, row: Row, supervision: Supervision, protocol: Protocol) -> int:
    """Return the students of a row that an earlier start has finished.

    Only those on hard labels are looked for: whose labels soft ones are is known once they are
    made.
    """
    if not row.made or supervision.needs_labels:
        return 0
    keys = [
        RecordKey(protocol.digest(), row.candidate.digest, run.seed, index, supervision.digest(""))
        for index in range(protocol.num_students)
    ]
    folder = run.folder.students(row.method.key)
    return sum(read_record(folder, key) is not None for key in keys)
