r"""How much of a set's accuracy is its images: label-robust and augmentation-robust scores.

Soft labels and augmentation lift the accuracy of any images, random real ones too. So the gain
over as many random real images is what counts, under the same labels and augmentation, and
how near plain classes bring a student to all real images. With accuracies ``a`` as fractions,

.. math::
    \alpha &= w\,(a_{soft} - a^{random}_{soft}) - (1 - w)\,(a^{whole}_{hard} - a_{hard}) \\
    \beta &= \gamma\,(a_{aug} - a^{random}_{aug}) + (1 - \gamma)\,(a_{plain} - a^{random}_{plain})

lie in :math:`[-1, 1]`, and the scores are :math:`\ell(\alpha)` and :math:`\ell(\beta)` with
:math:`\ell(v) = (e^v - e^{-1}) / (e - e^{-1})`, from 0 to 1. A set that is as good as random
images, where these are as good as all images, scores 0.269.

Standard errors are those of the delta method over students: the variance of an accuracy's mean
goes through the coefficient and the slope of :math:`\ell`. Intervals are Welch's for
:math:`\alpha` or :math:`\beta`, sent through :math:`\ell`, which rises. Cells of a score are
taken as independent; their students begin with the same weights, which makes that cautious.
Which random images were drawn and which rate was chosen is not in them.

References:
    Li et al., "DD-Ranking: rethinking the evaluation of dataset distillation", 2025;
    Welch, "The generalization of Student's problem", 1947.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, variance
from typing import NamedTuple

from scipy.stats import t as student_t

from geodm_lightning.types import InputError

Accuracies = Sequence[float]  # of the students of one cell, fractions


class RobustScore(NamedTuple):
    """A score with what is known of its chance.

    Attributes:
        value: The score, from 0 to 1.
        exponent: What it is a function of, from -1 to 1.
        standard_error: Of ``value``, over students; None where a cell has a single student.
        low: Lower end of the 95 % interval of ``value``; None likewise.
        high: Upper end.
    """

    value: float
    exponent: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


def squashed(exponent: float) -> float:
    """Map ``[-1, 1]`` onto ``[0, 1]``, rising ever steeper.

    Example:
        >>> [round(squashed(value), 3) for value in (-1.0, 0.0, 0.144, 1.0)]
        [0.0, 0.269, 0.335, 1.0]
    """
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(
    *,
    whole: Accuracies,
    hard: Accuracies,
    random: Accuracies,
    soft: Accuracies | None = None,
    weight: float = 0.5,
) -> RobustScore:
    """Score a set by what its images give whatever the labels.

    Args:
        whole: Students on all real images with their classes.
        hard: Students on the set with plain classes.
        random: Students on random real images with the labels of ``soft``.
        soft: Students on the set with the labels that belong to it; ``hard`` where it has none.
        weight: Weight ``w`` of the gain over random images.

    Raises:
        InputError: If an accuracy is no fraction, a cell has no student, or the weight does not
            lie between 0 and 1.

    Example:
        >>> score = label_robust_score(whole=[0.848], hard=[0.718], random=[0.30])
        >>> round(score.value, 3)
        0.335
    """
    check_weight("weight", weight)
    gap = [(1 - weight, hard), (weight - 1, whole)]
    if soft is None:
        return _score([(1.0, hard), (weight - 1, whole), (-weight, random)])
    return _score([*gap, (weight, soft), (-weight, random)])


def augmentation_robust_score(
    *,
    augmented: Accuracies,
    random_augmented: Accuracies,
    plain: Accuracies,
    random_plain: Accuracies,
    weight: float = 0.5,
) -> RobustScore:
    r"""Score a set by its gain over random real images with augmentation and without.

    Args:
        augmented: Students on the set under the protocol's augmentation.
        random_augmented: Students on random real images, likewise.
        plain: Students on the set without augmentation.
        random_plain: Students on random real images, likewise.
        weight: Weight :math:`\gamma` of the gain with augmentation.

    Raises:
        InputError: As :func:`label_robust_score`.
    """
    check_weight("augmentation_weight", weight)
    rest = 1 - weight
    return _score(
        [(weight, augmented), (-weight, random_augmented), (rest, plain), (-rest, random_plain)]
    )


def check_weight(name: str, weight: float) -> None:
    """Check a weight of a score.

    Raises:
        InputError: If it does not lie between 0 and 1.
    """
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:
        raise InputError(f"scores.{name} must lie between 0 and 1, got {weight!r}")


def _score(terms: Sequence[tuple[float, Accuracies]]) -> RobustScore:
    """Score a weighted sum of mean accuracies."""
    for _, accuracies in terms:
        if not accuracies:
            raise InputError("a cell of a score has no student; train at least one")
        wrong = [value for value in accuracies if not 0 <= value <= 1]
        if wrong:
            raise InputError(
                f"accuracies of a score are fractions from 0 to 1, got {wrong[0]:g}; divide "
                "percents by 100"
            )
    exponent = sum(weight * mean(accuracies) for weight, accuracies in terms)
    exponent = min(1.0, max(-1.0, exponent))  # roundings
    heard = [(weight, accuracies) for weight, accuracies in terms if weight]
    if any(len(accuracies) < 2 for _, accuracies in heard):
        return RobustScore(squashed(exponent), exponent)
    parts = [(weight**2 * variance(a) / len(a), len(a) - 1) for weight, a in heard]
    error = math.sqrt(sum(part for part, _ in parts))
    slope = math.exp(exponent) / (math.e - math.exp(-1))
    reach = _student_quantile(parts) * error if error else 0.0
    low, high = max(-1.0, exponent - reach), min(1.0, exponent + reach)
    return RobustScore(squashed(exponent), exponent, slope * error, squashed(low), squashed(high))


def _student_quantile(parts: Sequence[tuple[float, int]]) -> float:
    """97.5 % quantile of Student's t at the degrees of freedom of Welch and Satterthwaite."""
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(student_t.ppf(0.975, freedom))
