"""Paired comparison of two methods over the same seeds."""

from __future__ import annotations

from typing import NamedTuple

from scipy import stats

from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.types import InputError


class Comparison(NamedTuple):
    """How much better one method is than another, set by set.

    Attributes:
        differences: Mean accuracy of the first minus that of the second, by seed.
        mean: Mean difference, a fraction.
        t: Statistic of the paired t-test over seeds.
        p: Its two-sided probability under equal accuracies.
    """

    differences: dict[int, float]
    mean: float
    t: float
    p: float


def compare(first: EvaluationResult, second: EvaluationResult) -> Comparison:
    """Compare two methods by a two-sided paired t-test over the means of their seeds.

    Students of one seed share their set, so the set is the unit, not the student.

    Args:
        first: Result of several seeds.
        second: Result of the same seeds under the same protocol and supervision.

    Raises:
        InputError: If protocols, supervisions or seeds differ, or there are fewer than two seeds.
    """
    if first.protocol.comparison_digest() != second.protocol.comparison_digest():
        raise InputError(
            f"{first.label} and {second.label} were judged under different protocols; "
            "evaluate both under one"
        )
    if first.supervision != second.supervision or first.teachers != second.teachers:
        raise InputError(
            f"students on {first.label} learned from {first.supervision.label}, those on "
            f"{second.label} from {second.supervision.label}; compare within one supervision"
        )
    if first.seeds != second.seeds or len(first.seeds) < 2:
        raise InputError(
            f"{first.label} has seeds {list(first.seeds)}, {second.label} {list(second.seeds)}; "
            "a paired comparison needs the same seeds, at least two (num_seeds=5)"
        )
    ours, theirs = first.seed_means, second.seed_means
    test = stats.ttest_rel([ours[s] for s in first.seeds], [theirs[s] for s in first.seeds])
    differences = {seed: ours[seed] - theirs[seed] for seed in first.seeds}
    mean = sum(differences.values()) / len(differences)
    return Comparison(differences, mean, float(test.statistic), float(test.pvalue))
