"""What the students of a run learn: the cells of its table."""

from __future__ import annotations

from typing import NamedTuple

import torch

from geodm_lightning import assembly
from geodm_lightning.evaluation.architecture import Architecture
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.playback import check_fits
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.evaluation.views import view_recipe
from geodm_lightning.labels.given import MANIFEST, GivenViews
from geodm_lightning.labels.labeller import Labeller, OnlineLabels, StoredLabels
from geodm_lightning.labels.own import OwnLabels, PlayedLabels
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.methods import Method
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.imported import OWN, without_labels
from geodm_lightning.stages.run import Run
from geodm_lightning.types import InputError


class Lesson(NamedTuple):
    """What students of one cell of the table learn, and from whom.

    Attributes:
        method: Row of the table.
        candidate: Its images.
        supervision: What is learned of them.
        architecture: Network of the students, with the protocol that trains it.
        labeller: Answers of the teachers, None for hard labels.
        teachers: Names of the teachers.
    """

    method: Method
    candidate: Candidate
    supervision: Supervision
    architecture: Architecture
    labeller: Labeller | None = None
    teachers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Key of the result."""
        taught = "" if self.supervision == HARD else f"/{self.supervision.name}"
        name = self.architecture.name
        return f"{self.method.key}{taught}" + (f"@{name}" if name else "")

    @property
    def learned(self) -> str:
        """Digest of supervision and labels, empty for plain hard labels."""
        return self.supervision.digest("" if self.labeller is None else self.labeller.identity())


def lessons_of(run: Run) -> list[Lesson]:
    """Return the cells of the table, row by row.

    Raises:
        InputError: If labels that a supervision needs are missing, damaged or of other views.
    """
    supervisions = assembly.build_supervisions(run.settings)
    pools = assembly.build_pools(run.settings, run.data, run.site)
    architectures = assembly.build_architectures(run.settings, run.data.spec)
    protocol = architectures[0].protocol
    lessons = []
    for method in run.methods:
        candidate = candidate_of(run, method)
        for supervision in supervisions:
            cell = Lesson(method, candidate, supervision, architectures[0])
            if supervision.teachers == OWN:
                if method.kind != "imported":
                    continue
                cell = cell._replace(labeller=own_labels(run, cell, protocol))
            elif supervision.teachers is not None:
                if method.kind == "whole":
                    continue
                pool = pools[supervision.teachers]
                names = tuple(str(teacher.name) for teacher in pool.teachers)
                cell = cell._replace(
                    labeller=labeller_of(run, cell, pool, protocol), teachers=names
                )
            lessons += [cell._replace(architecture=each) for each in architectures]
    return lessons


def own_labels(run: Run, lesson: Lesson, protocol: Protocol) -> Labeller:
    """Return the soft labels that came with a set: of its views, or of its images.

    Raises:
        InputError: If it came with none, or with views that the protocol would not make.
    """
    folder = run.folder.labels(lesson.method.key, OWN)
    if (folder / MANIFEST).is_file():
        views = GivenViews(folder)
        resolution = view_recipe(protocol, run.data.spec).resolution
        check_fits(views, protocol, num_images=len(lesson.candidate.labels), resolution=resolution)
        return PlayedLabels(views)
    if lesson.candidate.soft_labels is None:
        raise without_labels(lesson.candidate.label, lesson.supervision)
    return OwnLabels(lesson.candidate.soft_labels)


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


def check_labels(lessons: list[Lesson]) -> None:
    """Read a label of every part of every store, which checks the part as a whole.

    Raises:
        InputError: If a part is damaged.
    """
    labellers = [lesson.labeller for lesson in lessons]
    epochs = lessons[0].architecture.protocol.epochs
    stored = [labeller.store for labeller in labellers if isinstance(labeller, StoredLabels)]
    for store in {store.folder: store for store in stored}.values():
        for epoch in range(epochs):
            store.logits(epoch, torch.zeros(1, dtype=torch.int64))
