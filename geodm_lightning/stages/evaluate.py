"""Train fresh students on every set of a run and on all real images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning import assembly
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.result import load_results, save_results
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.labels.labeller import Labeller, OnlineLabels, StoredLabels
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.methods import Method
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.progress import StudentProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.types import InputError


def evaluate(run: Run) -> Path:
    """Train fresh students on every set and on all real images, under one protocol.

    Each set is judged once for every supervision; all real images with hard labels only.

    Returns:
        The file of all results.

    Raises:
        InputError: If labels that a supervision needs are missing, damaged or of other views;
            raised before any student is trained.
    """
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    lessons = lessons_of(run, protocol)
    if is_complete(run.folder.results, lessons, protocol):
        return run.folder.results
    check_labels(lessons, protocol)
    results = []
    for lesson in lessons:
        results.append(
            evaluate_students(
                lesson.candidate,
                test=run.data.test,
                protocol=protocol,
                seed=run.seed,
                folder=run.folder.students(lesson.method.key),
                site=run.site,
                supervision=lesson.supervision,
                labeller=lesson.labeller,
                teachers=lesson.teachers,
                callbacks=student_callbacks(run, lesson, protocol.num_students),
                loggers=partial(student_loggers, run, lesson),
                provenance={**provenance(run.site.device), **run.data.provenance},
            )
        )
    run.site.processes.barrier()
    if run.site.processes.is_main:
        save_results(run.folder.results, results)
        for logger in run.loggers:
            logger.log_metrics({f"accuracy/{result.key}": result.mean for result in results})
    run.site.processes.barrier()
    return run.folder.results


class Lesson(NamedTuple):
    """What students of one cell of the table learn, and from whom.

    Attributes:
        method: Row of the table.
        candidate: Its images.
        supervision: Column of the table.
        labeller: Answers of the teachers, None for hard labels.
        teachers: Names of the teachers.
    """

    method: Method
    candidate: Candidate
    supervision: Supervision
    labeller: Labeller | None = None
    teachers: tuple[str, ...] = ()

    @property
    def learned(self) -> str:
        """Digest of supervision and labels, empty for plain hard labels."""
        return self.supervision.digest("" if self.labeller is None else self.labeller.identity())


def lessons_of(run: Run, protocol: Protocol) -> list[Lesson]:
    """Return the cells of the table, row by row.

    Raises:
        InputError: If labels that a supervision needs are missing, damaged or of other views.
    """
    supervisions = assembly.build_supervisions(run.settings)
    pools = assembly.build_pools(run.settings, run.data, run.site)
    lessons = []
    for method in run.methods:
        candidate = candidate_of(run, method)
        for supervision in supervisions:
            lesson = Lesson(method, candidate, supervision)
            if supervision.teachers is None:
                lessons.append(lesson)
            elif method.kind != "whole":
                pool = pools[supervision.teachers]
                labeller = labeller_of(run, lesson, pool, protocol)
                names = tuple(str(teacher.name) for teacher in pool.teachers)
                lessons.append(lesson._replace(labeller=labeller, teachers=names))
    return lessons


def labeller_of(run: Run, lesson: Lesson, pool: TeacherPool, protocol: Protocol) -> Labeller:
    """Return who labels the views of a set: the store, or the teachers themselves."""
    spec, kind = run.data.spec, lesson.supervision.teachers
    if run.settings["teachers"]["labels"] == "online":
        return OnlineLabels(pool, num_classes=spec.num_classes)
    store = assembly.open_store(
        run.settings,
        lesson.candidate,
        pool,
        protocol,
        spec=spec,
        seed=run.seed,
        folder=run.folder.labels(lesson.method.key, str(kind)),
    )
    missing = store.missing_epochs()
    if missing:
        raise InputError(
            f"labels of {len(missing)} epochs of {lesson.candidate.label} are not in "
            f"{store.folder}; run the stage relabel first"
        )
    return StoredLabels(store)


def check_labels(lessons: list[Lesson], protocol: Protocol) -> None:
    """Read a label of every part of every store, which checks the part as a whole.

    Raises:
        InputError: If a part is damaged.
    """
    labellers = [lesson.labeller for lesson in lessons]
    stored = [labeller.store for labeller in labellers if isinstance(labeller, StoredLabels)]
    for store in {store.folder: store for store in stored}.values():
        for epoch in range(protocol.epochs):
            store.logits(epoch, torch.zeros(1, dtype=torch.int64))


def is_complete(path: Path, lessons: list[Lesson], protocol: Protocol) -> bool:
    """Whether a file of results tells of these very images and labels under this very protocol.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return False
    found = [
        (
            r.method,
            r.supervision.digest(r.label_identities.get(str(r.students[0].seed), "")),
            r.protocol.digest(),
            len(r.students),
            r.students[0].set_digest,
        )
        for r in load_results(path)
    ]
    return found == [
        (
            lesson.method.key,
            lesson.learned,
            protocol.digest(),
            protocol.num_students,
            lesson.candidate.digest,
        )
        for lesson in lessons
    ]


def student_callbacks(run: Run, lesson: Lesson, num_students: int) -> list[Callback]:
    """Return the progress bar of the students; only the main process shows its own."""
    if not run.site.processes.is_main:
        return []
    title = lesson.method.label
    if lesson.labeller is not None:
        title = f"{title}, {lesson.supervision.label}"
    return [StudentProgress(title, num_students=num_students, console=CONSOLE)]


def student_loggers(run: Run, lesson: Lesson, index: int) -> list[Logger]:
    """Return the logger of one student; a file of its own per process, as several write."""
    rank = run.site.processes.rank
    path = run.folder.metrics if rank == 0 else run.folder.path / f"metrics_{rank}.csv"
    taught = "" if lesson.labeller is None else f"/{lesson.supervision.name}"
    series = f"{lesson.method.key}{taught}"
    tracker = CsvTracker(path, stage="student", series=f"{series}/{index}")
    tracker.truncate(step=0)
    return [tracker]
