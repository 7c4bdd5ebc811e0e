"""Students of one cell of a score: the rate chosen on images kept from training, then tested."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.data.table import ImageTable
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import DivergedError
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.site import Site
from geodm_lightning.stages.cohorts import Cohort, Trial, cohort_of
from geodm_lightning.types import InputError

PLAIN_VIEWS = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": False,
    "cutmix_probability": 0.0,
}


class TrialResult(NamedTuple):
    """What the students of a cell reached.

    Attributes:
        name: Images, supervision and augmentation.
        rate: Learning rate that was chosen.
        chosen_on: Mean accuracy on the held-out images for every rate, by the rate's text; None
            where a student diverged.
        accuracies: Of every student on the test images after the last epoch, as fractions.
    """

    name: str
    rate: float
    chosen_on: dict[str, float | None]
    accuracies: list[float]


class Bench(NamedTuple):
    """What all cells of a score share.

    Attributes:
        held_out: Training images on which rates are chosen.
        test: Test images.
        options: How scores are reached.
        seed: Seed of the run.
        site: Where to compute.
        together: How many students train at once, as the settings say.
    """

    held_out: ImageTable
    test: ImageTable
    options: ScoreOptions
    seed: int
    site: Site
    together: int | str = 1


def without_augmentation(protocol: Protocol) -> Protocol:
    """Return a protocol whose students see images as they are, at their input's size."""
    views = None if protocol.views is None else {**protocol.views, **PLAIN_VIEWS}
    return replace(protocol, augmentation="none", cutmix_probability=0.0, views=views)


def run_trial(trial: Trial, bench: Bench, advance: Callable[[int], None]) -> TrialResult:
    """Choose the rate of a cell on held-out images, then train and test its students.

    Every student is a record, so an interrupted score goes on where it was. A rate at which a
    student diverges has lost. Ties between rates go to the one nearest the protocol's, and of
    two as near to the lower.

    Args:
        trial: The cell.
        bench: What all cells share.
        advance: Told how many students are done.

    Raises:
        InputError: If students diverge at every rate, or one does at the rate that was chosen,
            or a record is damaged.
    """
    options, own = bench.options, trial.protocol.lr
    chosen_on: dict[float, float | None] = {}
    for factor in options.rates:
        choosing = cohort_of(trial, options, factor, role="choose")
        try:
            chosen_on[factor] = statistics.fmean(
                _train(choosing, trial, bench, test=bench.held_out)
            )
        except DivergedError:
            chosen_on[factor] = None
        advance(options.students_per_rate)
    factor = best_rate(chosen_on, trial)
    testing = cohort_of(trial, options, factor, role="test")
    try:
        accuracies = _train(testing, trial, bench, test=bench.test)
    except DivergedError as error:
        hint = f"chosen among scores.rates was {factor:g} times the protocol's rate; leave it out"
        raise InputError(f"{error}; {hint}") from error
    advance(len(accuracies))
    told = {f"{rate * own:g}": accuracy for rate, accuracy in chosen_on.items()}
    return TrialResult(trial.name, factor * own, told, accuracies)


def best_rate(chosen_on: Mapping[float, float | None], trial: Trial) -> float:
    """Return the rate with the highest accuracy among those at which students came to an end.

    Args:
        chosen_on: Accuracies by rates, which are told as multiples of the protocol's; None where
            a student diverged.
        trial: The cell, for readers.

    Raises:
        InputError: If none is left.
    """
    ended = {factor: accuracy for factor, accuracy in chosen_on.items() if accuracy is not None}
    if not ended:
        raise InputError(
            f"students of {trial.candidate.label} ({trial.name}) diverge at every rate of "
            f"scores.rates, {', '.join(f'{f:g}' for f in chosen_on)} times the protocol's "
            f"{trial.protocol.lr:g}; add a lower one"
        )
    return max(ended, key=lambda f: (ended[f], -abs(math.log(f)), -f))


def _train(cohort: Cohort, trial: Trial, bench: Bench, *, test: ImageTable) -> list[float]:
    result = evaluate_students(
        cohort.candidate,
        test=test,
        protocol=cohort.protocol,
        seed=bench.seed,
        folder=cohort.folder,
        site=bench.site,
        supervision=trial.supervision,
        labeller=trial.labeller,
        together=bench.together,
    )
    return [student.accuracy for student in result.students]
