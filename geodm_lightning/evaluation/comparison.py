"""Comparison of two sets of students under one protocol, with the test it is made by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from geodm_lightning.evaluation.interval import LEVEL, Interval, t_interval
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.types import InputError

FEWEST_FLIPS, MOST_FLIPS = 5, 20  # seeds of the permutation test: 32 to a million signs


class Comparison(NamedTuple):
    """How much better one method is than another.

    Attributes:
        test: ``"paired t"`` over the seeds, or ``"Welch"`` over the students of one set each.
        differences: Mean accuracy of the first minus that of the second, by seed.
        mean: Mean difference, a fraction.
        interval: 95 % interval of the mean difference by the same test.
        effect: Mean difference in standard deviations: those of the differences between paired
            seeds, or the pooled one of the students; None where nothing varies.
        t: Statistic of the test.
        p: Its two-sided probability under equal means.
        flipped: Two-sided probability by exact permutation of the signs of the differences,
            None for fewer than five seeds or unpaired students.
        num: Units compared: seeds, or students of the first and of the second.
        scope: What the test speaks of.
    """

    test: str
    differences: dict[int, float]
    mean: float
    interval: Interval
    effect: float | None
    t: float
    p: float
    flipped: float | None
    num: tuple[int, ...]
    scope: str


def compare(first: EvaluationResult, second: EvaluationResult) -> Comparison:
    """Compare two methods: over their seeds, or over the students of one set each.

    Students of one seed share their set, so the set is the unit of a statement about methods:
    a two-sided paired t-test over the means of the seeds, which share real data and students'
    weights. Where each method has a single set there is nothing to pair: Welch's t-test over the
    students then speaks of these two sets alone.

    Args:
        first: Result of one or several seeds.
        second: Result of the same seeds under the same protocol, architecture and supervision.

    Raises:
        InputError: If protocols, architectures, supervisions, tested images or seeds differ, or a
            single student is all there is.
    """
    _check_alike(first, second)
    differences = {s: first.seed_means[s] - second.seed_means[s] for s in first.seeds}
    if max(first.num_sets, second.num_sets) == 1:
        return _unpaired(first, second, differences)
    single = [result.label for result in (first, second) if result.num_sets == 1]
    scope = f", but of the single set of {single[0]}" if single else ", each seed with its own set"
    return _paired(differences, scope=f"of the methods{scope}")


def _check_alike(first: EvaluationResult, second: EvaluationResult) -> None:
    if first.protocol.comparison_digest() != second.protocol.comparison_digest():
        raise InputError(
            f"{first.full_label} and {second.full_label} were judged under different protocols "
            "or architectures; evaluate both under one"
        )
    if (first.dataset, first.tested_on) != (second.dataset, second.tested_on):
        raise InputError(
            f"{first.label} was tested on {first.tested_on} images of {first.dataset}, "
            f"{second.label} on {second.tested_on} images of {second.dataset}"
        )
    if first.supervision != second.supervision or first.teachers != second.teachers:
        raise InputError(
            f"students on {first.label} learned from {first.supervision.label}, those on "
            f"{second.label} from {second.supervision.label}; compare within one supervision"
        )
    if first.seeds != second.seeds:
        raise InputError(
            f"{first.label} has seeds {list(first.seeds)}, {second.label} {list(second.seeds)}; "
            "a comparison needs the same seeds (num_seeds=5 for both)"
        )


def _paired(differences: dict[int, float], *, scope: str) -> Comparison:
    values = list(differences.values())
    mean, std = statistics.fmean(values), statistics.stdev(values)
    interval = t_interval(values, level=LEVEL)
    assert interval is not None  # several sets are several seeds
    t = mean / (std / math.sqrt(len(values))) if std else math.copysign(math.inf, mean)
    return Comparison(
        test="paired t",
        differences=differences,
        mean=mean,
        interval=interval,
        effect=mean / std if std else None,
        t=t if mean or std else 0.0,
        p=float(2 * stats.t.sf(abs(t), len(values) - 1)) if mean or std else 1.0,
        flipped=sign_flip_p(values) if FEWEST_FLIPS <= len(values) <= MOST_FLIPS else None,
        num=(len(values),),
        scope=scope,
    )


def _unpaired(
    first: EvaluationResult, second: EvaluationResult, differences: dict[int, float]
) -> Comparison:
    ours, theirs = np.array(first.accuracies), np.array(second.accuracies)
    if min(len(ours), len(theirs)) < 2:
        raise InputError(
            f"{first.label} and {second.label} have a single set each and {len(ours)} and "
            f"{len(theirs)} students; a test needs two students of each, or several seeds"
        )
    variances = ours.var(ddof=1), theirs.var(ddof=1)
    shares = variances[0] / len(ours), variances[1] / len(theirs)
    mean, error = float(ours.mean() - theirs.mean()), math.sqrt(sum(shares))
    if error == 0:
        raise InputError(f"students of {first.label} and {second.label} do not differ at all")
    freedom = sum(shares) ** 2 / (
        shares[0] ** 2 / (len(ours) - 1) + shares[1] ** 2 / (len(theirs) - 1)
    )
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    weights = len(ours) - 1, len(theirs) - 1
    pooled = math.sqrt(float(np.average(variances, weights=weights)))
    return Comparison(
        test="Welch",
        differences=differences,
        mean=mean,
        interval=Interval(mean - half, mean + half),
        effect=mean / pooled,
        t=mean / error,
        p=float(2 * stats.t.sf(abs(mean / error), freedom)),
        flipped=None,
        num=(len(ours), len(theirs)),
        scope="of these two sets alone, not of the methods: each has a single set",
    )


def sign_flip_p(values: Sequence[float]) -> float:
    """Return how often random signs give a mean as far from 0, over all of them exactly.

    Args:
        values: Differences, at most twenty; each may as well have the other sign if the two
            methods are equal, whatever their distribution.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])
        0.25
    """
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    reached = abs(math.fsum(values)) * (1 - 1e-12)  # rounding must not lose the equal ones
    return float(np.mean(np.abs(sums) >= reached))


def describe(comparison: Comparison) -> list[str]:
    """Return a comparison in lines: the differences, the test, what it speaks of."""
    c = comparison
    by_seed = ", ".join(f"{100 * d:+.1f}" for d in c.differences.values())
    low, high = (f"{100 * end:+.1f}" for end in c.interval)
    size = "" if c.effect is None else f", effect size {c.effect:+.2f}"
    several = len(c.num) == 2
    units = f"{c.num[0]} and {c.num[1]} students" if several else f"{c.num[0]} seeds"
    lines = [
        f"points by seed: {by_seed}; mean {100 * c.mean:+.1f}, {100 * LEVEL:g} % interval {low} to "
        f"{high}{size}",
        f"{c.test} test over {units}: t = {c.t:.2f}, p = {c.p:.3f} (two-sided); "
        f"it speaks {c.scope}",
    ]
    if c.flipped is not None:
        lines.append(f"exact sign-flip permutation test over the seeds: p = {c.flipped:.3f}")
    return lines
