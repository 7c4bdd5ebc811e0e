"""Train fresh students on every set of a run and on all real images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from lightning import Callback
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning.evaluation.result import load_results, save_results
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.progress import StudentProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.lessons import Lesson, check_labels, lessons_of
from geodm_lightning.stages.run import CONSOLE, Run


def evaluate(run: Run) -> Path:
    """Train fresh students on every set and on all real images, under one protocol.

    Each set is judged once for every supervision and architecture; all real images with hard
    labels only.

    Returns:
        The file of all results.

    Raises:
        InputError: If labels that a supervision needs are missing, damaged or of other views;
            raised before any student is trained.
    """
    lessons = lessons_of(run)
    if is_complete(run.folder.results, lessons):
        return run.folder.results
    check_labels(lessons)
    results = []
    tell = partial(CONSOLE.print, markup=False, highlight=False, soft_wrap=True)
    report = cache(tell) if run.site.processes.is_main else None  # every line once
    for lesson in lessons:
        protocol = lesson.architecture.protocol
        result = evaluate_students(
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
            provenance={**provenance(*run.site[:2]), **run.data.provenance},
            together=run.settings["evaluation"].get("together", 1),
            report=report,
        )
        name, label, _ = lesson.architecture
        results.append(replace(result, architecture=name, architecture_label=label))
    run.site.processes.barrier()
    if run.site.processes.is_main:
        save_results(run.folder.results, results)
        for logger in run.loggers:
            logger.log_metrics({f"accuracy/{result.key}": result.mean for result in results})
    run.site.processes.barrier()
    return run.folder.results


def is_complete(path: Path, lessons: list[Lesson]) -> bool:
    """Whether a file of results tells of these very images, labels and protocols.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return False
    found = [
        (
            r.key,
            r.supervision.digest(r.label_identities.get(str(r.students[0].seed), "")),
            r.protocol.digest(),
            len(r.students),
            r.students[0].set_digest,
        )
        for r in load_results(path)
    ]
    return found == [
        (
            lesson.key,
            lesson.learned,
            lesson.architecture.protocol.digest(),
            lesson.architecture.protocol.num_students,
            lesson.candidate.digest,
        )
        for lesson in lessons
    ]


def student_callbacks(run: Run, lesson: Lesson, num_students: int) -> list[Callback]:
    """Return the progress bar of the students; only the main process shows its own."""
    if not run.site.processes.is_main:
        return []
    taught = "" if lesson.labeller is None else lesson.supervision.label
    title = ", ".join(filter(None, (lesson.method.label, taught, lesson.architecture.label)))
    return [StudentProgress(title, num_students=num_students, console=CONSOLE)]


def student_loggers(run: Run, lesson: Lesson, index: int) -> list[Logger]:
    """Return the logger of one student; a file of its own per process, as several write."""
    rank = run.site.processes.rank
    path = run.folder.metrics if rank == 0 else run.folder.path / f"metrics_{rank}.csv"
    tracker = CsvTracker(path, stage="student", series=f"{lesson.key}/{index}")
    tracker.truncate(step=0)
    return [tracker]
