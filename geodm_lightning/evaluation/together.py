"""Students of one candidate side by side: what they share, and the batches of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning.data.batches import LabelledBatches, joint_batch
from geodm_lightning.data.table import ImageTable
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.datamodule import (
    EvaluationDataModule,
    PlainBatches,
    TrainingBatches,
    num_training_steps,
)
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.evaluation.student import AnyBatch, StudentModule
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.evaluation.views import ViewBatches, joint_views
from geodm_lightning.labels.labeller import Labeller


class Course(NamedTuple):
    """What all students of one evaluation share.

    Attributes:
        candidate: Images to train on.
        test: Real images to test on.
        protocol: How students are trained.
        seed: Seed of the run.
        supervision: What they learn from.
        labeller: Gives the teachers' answers, None without teachers.
    """

    candidate: Candidate
    test: ImageTable
    protocol: Protocol
    seed: int
    supervision: Supervision = HARD
    labeller: Labeller | None = None

    @property
    def num_steps(self) -> int:
        """Optimiser steps of every student."""
        return num_training_steps(self.candidate, self.protocol)

    def students(
        self, indices: Sequence[int], loggers: Sequence[Sequence[Logger]] = ()
    ) -> StudentModule:
        """Return fresh students, to be trained by the same steps."""
        return StudentModule(
            self.protocol,
            self.test.spec,
            seed=self.seed,
            indices=indices,
            num_steps=self.num_steps,
            supervision=self.supervision,
            student_loggers=loggers,
        )

    def batches(self, indices: Sequence[int]) -> JointDataModule:
        """Return what these students are trained and tested on."""
        modules = [
            EvaluationDataModule(
                self.candidate,
                test=self.test,
                protocol=self.protocol,
                seed=self.seed,
                index=index,
                labeller=self.labeller,
            )
            for index in indices
        ]
        return JointDataModule(modules)


def result_of(
    course: Course,
    students: tuple[StudentResult, ...],
    *,
    teachers: Sequence[str],
    provenance: Mapping[str, Any],
) -> EvaluationResult:
    """Put the students of one evaluation together, with what made the images they learned."""
    candidate, seed = course.candidate, str(course.seed)
    labels = "" if course.labeller is None else course.labeller.identity()
    return EvaluationResult(
        method=candidate.method,
        label=candidate.label,
        dataset=course.test.spec.name,
        ipc=candidate.ipc,
        num_images=len(candidate.labels),
        protocol=course.protocol,
        students=students,
        schedule_share=candidate.schedule_share,
        costs={} if candidate.cost is None else {seed: candidate.cost},
        geometries={} if candidate.geometry is None else {seed: candidate.geometry},
        provenance=dict(provenance),
        supervision=course.supervision,
        teachers=tuple(teachers) if labels else (),
        label_identities={seed: labels} if labels else {},
    )


class JointDataModule(lightning.LightningDataModule):
    """Batches of several students of one candidate.

    Args:
        modules: Those of each student.
    """

    def __init__(self, modules: Sequence[EvaluationDataModule]) -> None:
        super().__init__()
        self._modules = modules

    def train_dataloader(self) -> JointBatches:
        """Return the batches of all students, step by step."""
        return JointBatches([module.train_dataloader() for module in self._modules])

    def test_dataloader(self) -> list[PlainBatches]:
        """Return the images that all students are tested on."""
        return self._modules[0].test_dataloader()


class JointBatches:
    """The batches of several students, step by step, each as its student would get it alone.

    Args:
        streams: Batches of each student, of the same images and as many.
    """

    def __init__(self, streams: Sequence[TrainingBatches]) -> None:
        self._streams = streams

    def __len__(self) -> int:
        return len(self._streams[0])

    def __iter__(self) -> Iterator[Sequence[AnyBatch]]:
        labelled = [stream for stream in self._streams if isinstance(stream, LabelledBatches)]
        views = [stream for stream in self._streams if isinstance(stream, ViewBatches)]
        if len(labelled) == len(self._streams):
            yield from _labelled(labelled)
        elif len(views) == len(self._streams):
            yield from _views(views)
        else:
            yield from zip(*self._streams, strict=True)


def _labelled(streams: Sequence[LabelledBatches]) -> Iterator[Sequence[AnyBatch]]:
    device = streams[0].labels.device
    chosen = zip(*(stream.orders() for stream in streams), strict=True)
    for step, orders in enumerate(chosen):
        yield joint_batch(streams, [indices.to(device) for indices in orders], step)


def _views(streams: Sequence[ViewBatches]) -> Iterator[Sequence[AnyBatch]]:
    chosen = zip(*(stream.orders() for stream in streams), strict=True)
    for step, batches in enumerate(chosen):
        epoch, orders = batches[0][0], [indices for _, indices in batches]
        yield joint_views(streams, orders, epoch=epoch, step=step)
