"""All students of one candidate, spread over the processes and kept one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning.data.table import ImageTable
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.group_size import Report, group_size
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import (
    DivergedError,
    Divergence,
    StudentResult,
    read_record,
    read_students,
    record_keys,
    write_record,
)
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.evaluation.student import LOG_EVERY
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.evaluation.together import Course, result_of
from geodm_lightning.labels.labeller import Labeller
from geodm_lightning.labels.own import OwnLabels
from geodm_lightning.networks.compiled import compile_network
from geodm_lightning.randomness import keyed_seed
from geodm_lightning.site import Site
from geodm_lightning.types import InputError

LoggerFactory = Callable[[int], Sequence[Logger]]  # index of a student -> its loggers


def evaluate_students(
    candidate: Candidate,
    *,
    test: ImageTable,
    protocol: Protocol,
    seed: int,
    folder: Path,
    site: Site,
    supervision: Supervision = HARD,
    labeller: Labeller | None = None,
    teachers: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    loggers: LoggerFactory | None = None,
    provenance: Mapping[str, Any] | None = None,
    together: int | str = 1,
    report: Report | None = None,
) -> EvaluationResult:
    """Train fresh students on a candidate and test them on real images.

    Process ``r`` of ``w`` trains students ``r, r + w, …``, whose outcome does not depend on
    ``r`` or ``w``. A finished student is a file in ``folder`` at once; one that lies there,
    of the same protocol, images and supervision, is not trained again. Students trained at once
    end at once, so a kill loses no more than these. A student that diverges leaves a record too,
    and no process begins another one of its evaluation. All processes call this together.

    Args:
        candidate: Images to train on.
        test: Real images to test on, gathered on the device of ``site``.
        protocol: How students are trained, and how many.
        seed: Seed of the run.
        folder: Where records of finished students are kept.
        site: Where to compute.
        supervision: What the students learn from.
        labeller: Gives the teachers' answers to the views of epochs ``0, 1, …`` drawn by ``seed``;
            asked only where the supervision has teachers.
        teachers: Names of its teachers, for readers.
        callbacks: Lightning callbacks, such as a progress bar.
        loggers: Makes the loggers of a student; none where None.
        provenance: Plain values kept with the result.
        together: Students of a process that are trained at once, or ``"auto"`` for as many as
            are fastest here; it changes their outcome by rounding alone.
        report: Told in one line how many that are, or why they are trained one by one.

    Returns:
        The same result on every process.

    Raises:
        DivergedError: If a student's loss is not finite, on every process.
        InputError: If a record is damaged, or the protocol and the labeller cannot give what the
            supervision needs.
    """
    labeller = _checked(labeller, supervision, protocol, num_classes=test.spec.num_classes)
    learned = supervision.digest("" if labeller is None else labeller.identity())
    keys = record_keys(protocol.num_students, protocol.digest(), candidate.digest, seed, learned)
    course = Course(candidate, test, protocol, seed, supervision, labeller)
    own = keys[site.processes.rank :: site.processes.world_size]
    waiting = [key.index for key in own if read_record(folder, key) is None]
    keep = partial(
        write_record, folder, protocol_digest=protocol.digest(), supervision_digest=learned
    )
    try:
        size = group_size(together, course, waiting, site=site, report=report or _ignore)
        for start in range(0, len(waiting), size):
            if any(isinstance(read_record(folder, key), Divergence) for key in keys):
                break  # here, earlier, or in another process
            indices = waiting[start : start + size]
            made = [loggers(index) for index in indices] if loggers else ()
            for student in train_students(
                course, indices, site=site, callbacks=callbacks, loggers=made
            ):
                keep(student)
    except DivergedError as error:
        keep(Divergence(seed, error.index, candidate.digest, error.step))
    site.processes.barrier()
    students = read_students(folder, keys, label=candidate.label)
    return result_of(course, students, teachers=teachers, provenance=provenance or {})


def train_student(
    candidate: Candidate,
    *,
    test: ImageTable,
    protocol: Protocol,
    seed: int,
    index: int,
    site: Site,
    supervision: Supervision = HARD,
    labeller: Labeller | None = None,
) -> StudentResult:
    """Train one student to its last epoch, then test it once; arguments as above.

    Raises:
        DivergedError: If its loss is not finite.
    """
    course = Course(candidate, test, protocol, seed, supervision, labeller)
    return train_students(course, [index], site=site)[0]


def train_students(
    course: Course,
    indices: Sequence[int],
    *,
    site: Site,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Sequence[Logger]] = (),
) -> list[StudentResult]:
    """Train students by the same steps to their last epoch, then test them once.

    Args:
        course: What they share.
        indices: Which they are.
        site: Where to compute.
        callbacks: Lightning callbacks, such as a progress bar.
        loggers: Loggers of each; none where empty.

    Returns:
        What each has reached. The time is shared out evenly; the memory is that of all.

    Raises:
        DivergedError: If a loss is not finite.
    """
    started = time.perf_counter()
    num_steps = course.num_steps
    students, batches = course.students(indices, loggers), course.batches(indices)
    if site.channels_last:
        students.network.to(memory_format=torch.channels_last)
    if site.compiles:
        compile_network(students.network, site.device)
    trainer = site.trainer(
        max_epochs=1,
        max_steps=num_steps,
        callbacks=list(callbacks),
        logger=[logger for own in loggers for logger in own] or False,
        log_every_n_steps=min(LOG_EVERY, num_steps),
    )
    is_cuda = site.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(site.device)
    # Dropout inside a network can only draw from the global generators: they are seeded for
    # the student, which is then alone, and put back.
    with torch.random.fork_rng(devices=[site.device] if is_cuda else []):
        torch.manual_seed(keyed_seed(course.seed, "student", indices[0], "dropout"))
        trainer.fit(students, batches)
        trainer.test(students, batches, verbose=False)
    seconds = (time.perf_counter() - started) / len(indices)
    peak = torch.cuda.max_memory_allocated(site.device) if is_cuda else None
    return [
        StudentResult(
            seed=course.seed,
            index=index,
            set_digest=course.candidate.digest,
            num_steps=trainer.global_step,
            seconds=seconds,
            num_parameters=students.num_parameters,
            peak_memory=peak,
            **scores._asdict(),
        )
        for index, scores in zip(indices, students.scores, strict=True)
    ]


def _checked(
    labeller: Labeller | None, supervision: Supervision, protocol: Protocol, *, num_classes: int
) -> Labeller | None:
    """Return the labeller where the supervision needs one, None where it does not."""
    if not supervision.needs_labels:
        return None
    if labeller is None:
        raise InputError(
            f"supervision {supervision.name} needs labels of teachers; run the stage relabel"
        )
    if protocol.views is None and not isinstance(labeller, OwnLabels):
        raise InputError(
            f"supervision {supervision.name} needs views that teachers have labelled, protocol "
            f"{protocol.name} has none; set protocol.views, or use hard labels"
        )
    if protocol.augmentation not in ("", "none") and not isinstance(labeller, OwnLabels):
        raise InputError(
            f"teachers have not seen augmentation {protocol.augmentation!r}; set "
            "protocol.augmentation to none, or use hard labels"
        )
    if labeller.num_classes != num_classes:
        raise InputError(
            f"the teachers know {labeller.num_classes} classes, the data set has {num_classes}; "
            "choose teachers of this data set"
        )
    return labeller


def _ignore(line: str) -> None:
    """Tell nobody."""
