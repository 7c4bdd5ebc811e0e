"""The cells of a score, the students of each, and how many of these are done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import Divergence, Outcome, read_record, record_keys
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.labels.labeller import Labeller

Role: TypeAlias = Literal["choose", "test"]
ROLES: tuple[Role, ...] = ("choose", "test")


class Trial(NamedTuple):
    """One cell of a score.

    Attributes:
        images: ``"set"``, ``"random"`` or ``"whole"``.
        candidate: What students are trained on.
        chooser: What those are trained on that choose the rate: without the images they are
            tested on.
        protocol: How they are trained but for the rate.
        folder: Where records of finished students are kept.
        augmented: Whether it is the protocol's augmentation or none.
        supervision: What they learn from.
        labeller: Gives the teachers' answers, None for plain classes.
    """

    images: str
    candidate: Candidate
    chooser: Candidate
    protocol: Protocol
    folder: Path
    augmented: bool = True
    supervision: Supervision = HARD
    labeller: Labeller | None = None

    @property
    def name(self) -> str:
        """What the cell is called in files."""
        augmentation = "augmented" if self.augmented else "plain"
        return f"{self.images}/{self.supervision.name}/{augmentation}"

    def identity(self) -> list[str]:
        """Return what decides the outcome, beside seed, rates and test images."""
        labels = "" if self.labeller is None else self.labeller.identity()
        images = [self.candidate.digest, self.chooser.digest]
        return [self.name, self.protocol.digest(), *images, self.supervision.digest(labels)]


class Cohort(NamedTuple):
    """Students of a cell that are trained alike.

    Attributes:
        candidate: What they are trained on.
        protocol: How, the rate included, and how many.
        folder: Where their records are kept.
    """

    candidate: Candidate
    protocol: Protocol
    folder: Path


def num_students(trial: Trial, options: ScoreOptions) -> int:
    """Return how many students a cell takes."""
    return len(options.rates) * options.students_per_rate + trial.protocol.num_students


def num_done(trial: Trial, options: ScoreOptions, *, seed: int) -> int:
    """Return how many students of a cell need not be trained: finished ones and of lost rates.

    Raises:
        InputError: If a record is damaged.
    """
    learned = trial.supervision.digest("" if trial.labeller is None else trial.labeller.identity())
    choosing, testing = (
        [
            records_of(cohort_of(trial, options, rate, role=role), seed, learned)
            for rate in options.rates
        ]
        for role in ("choose", "test")
    )
    lost = [any(isinstance(one, Divergence) for one in found) for found in choosing]
    chose = sum(
        options.students_per_rate if none else len(found)
        for none, found in zip(lost, choosing, strict=True)
    )
    return chose + max(map(len, testing))


def cohort_of(trial: Trial, options: ScoreOptions, factor: float, *, role: Role) -> Cohort:
    """Return the students that choose a rate, or those that are trained at it and tested."""
    protocol = replace(trial.protocol, lr=factor * trial.protocol.lr)
    if role == "test":
        return Cohort(trial.candidate, protocol, trial.folder / "test")
    protocol = replace(protocol, num_students=options.students_per_rate)
    folder = trial.folder / f"held_out_{options.validation:g}"
    return Cohort(trial.chooser, protocol, folder)


def records_of(cohort: Cohort, seed: int, learned: str) -> list[Outcome]:
    """Return what became of those students that there are records of."""
    keys = record_keys(
        cohort.protocol.num_students,
        cohort.protocol.digest(),
        cohort.candidate.digest,
        seed,
        learned,
    )
    found = [read_record(cohort.folder, key) for key in keys]
    return [record for record in found if record is not None]
