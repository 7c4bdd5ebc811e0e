import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from geodm_lightning.evaluation.comparison import compare, describe, sign_flip_p
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.types import InputError


@pytest.fixture
def make(tiny_a):
    def build(label, *means, protocol=tiny_a, **changes):
        students = tuple(
            StudentResult(seed, index, f"set{seed}", mean + shift, 0.5, 1.0, 16, 1.0, 100)
            for seed, mean in enumerate(means)
            for index, shift in enumerate((-0.01, 0.01))
        )
        name = label.lower()
        return EvaluationResult(name, label, "digits", 10, 100, protocol, students, **changes)

    return build


def test_known_answer(make):
    comparison = compare(make("GeoDM", 0.62, 0.66, 0.70), make("DM", 0.60, 0.62, 0.64))
    # differences 2, 4, 6 points: mean 4, deviation 2, t = 4 / (2 / sqrt 3)
    assert comparison.test == "paired t"
    assert list(comparison.differences.values()) == pytest.approx([0.02, 0.04, 0.06])
    assert comparison.mean == pytest.approx(0.04)
    assert comparison.effect == pytest.approx(2.0)
    assert comparison.t == pytest.approx(2 * math.sqrt(3))
    # closed form of the t distribution with 2 degrees of freedom
    t = comparison.t
    assert comparison.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    half = 4.30265273 * 0.02 / math.sqrt(3)
    assert comparison.interval == pytest.approx((0.04 - half, 0.04 + half))
    assert comparison.flipped is None  # eight signs can say nothing at a level of 5 %


def test_paired_test_is_that_of_scipy(make):
    ours, theirs = (0.62, 0.66, 0.70, 0.64, 0.71), (0.60, 0.62, 0.64, 0.66, 0.65)
    comparison = compare(make("GeoDM", *ours), make("DM", *theirs))
    expected = stats.ttest_rel(ours, theirs)
    assert (comparison.t, comparison.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert comparison.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    differences = np.array(ours) - np.array(theirs)
    means = [abs((differences * s).mean()) for s in itertools.product((1, -1), repeat=5)]
    assert comparison.flipped == np.mean(np.array(means) >= abs(differences.mean()) - 1e-12)


def test_single_sets_are_compared_by_their_students(make):
    """Welch's test, and plain words that it speaks of two sets."""
    first = make("GeoDM", 0.7)
    second = replace(make("DM", 0.6), students=make("DM", 0.6).students * 1)
    third = StudentResult(0, 2, "set0", 0.68, 0.5, 1.0, 16, 1.0, 100)
    second = replace(second, students=(*second.students, third))
    comparison = compare(first, second)
    expected = stats.ttest_ind(first.accuracies, second.accuracies, equal_var=False)
    assert comparison.test == "Welch"
    assert (comparison.t, comparison.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert comparison.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert "of these two sets alone, not of the methods" in " ".join(describe(comparison))
    several = " ".join(describe(compare(make("A", 0.7, 0.8), make("B", 0.6, 0.75))))
    assert "paired t test over 2 seeds" in several
    assert "of the methods, each seed with its own set" in several


def test_one_set_judged_by_several_seeds_is_one_set(make):
    """Groups of students on the same images are no repetitions of the method."""
    same = [
        replace(result, students=tuple(replace(s, set_digest="one") for s in result.students))
        for result in (make("GeoDM", 0.7, 0.8), make("DM", 0.6, 0.7))
    ]
    assert compare(*same).test == "Welch"
    mixed = compare(same[0], make("DM", 0.6, 0.7))
    assert mixed.test == "paired t"
    assert "but of the single set of GeoDM" in describe(mixed)[1]


def test_permutation_of_signs_by_hand():
    assert sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0]) == 2 / 32
    assert sign_flip_p([1.0, -1.0]) == 1.0
    assert sign_flip_p([0.1, 0.2, 0.3]) == 0.25  # equal sums are not lost to rounding


def test_permutation_test_rejects_as_often_as_it_says():
    """Under equal methods p lies below 1/16 in 1 of 16 cases, within four deviations."""
    draws = np.random.default_rng(0).standard_t(2, size=(2000, 5))
    found = sum(sign_flip_p(row) <= 2 / 32 for row in draws.tolist()) / 2000
    assert abs(found - 1 / 16) < 4 * math.sqrt(1 / 16 * 15 / 16 / 2000)


def test_turning_round_changes_the_sign_only(make):
    for seeds in (3, 1):
        ours, theirs = (
            make("GeoDM", *(0.7, 0.8, 0.8)[:seeds]),
            make("DM", *(0.6, 0.75, 0.78)[:seeds]),
        )
        forth, back = compare(ours, theirs), compare(theirs, ours)
        assert (back.mean, back.t, back.p) == pytest.approx((-forth.mean, -forth.t, forth.p))
        assert back.interval == pytest.approx((-forth.interval.high, -forth.interval.low))


def test_equal_rows_do_not_differ(make):
    comparison = compare(make("GeoDM", 0.7, 0.8), make("DM", 0.7, 0.8))
    assert (comparison.mean, comparison.t, comparison.p) == (0.0, 0.0, 1.0)
    assert comparison.effect is None


def test_refusals(make, tiny_a):
    ours = make("GeoDM", 0.7, 0.8)
    with pytest.raises(
        InputError, match=r"has seeds \[0, 1\], DM \[0\]; a comparison needs the same"
    ):
        compare(ours, make("DM", 0.6))
    with pytest.raises(InputError, match="judged under different protocols or architectures"):
        compare(ours, make("DM", 0.6, 0.7, protocol=replace(tiny_a, lr=0.5)))
    with pytest.raises(InputError, match="on test images of digits, DM on validation images"):
        compare(ours, make("DM", 0.6, 0.7, provenance={"tested_on": "validation"}))
    taught = replace(ours, supervision=Supervision("lia", "LIA", mse=1.0, teachers="all"))
    with pytest.raises(InputError, match="from Hard labels, those on GeoDM from LIA"):
        compare(ours, taught)
    alone = [replace(make(name, 0.7), students=make(name, 0.7).students[:1]) for name in "AB"]
    with pytest.raises(InputError, match="a single set each and 1 and 1 students"):
        compare(*alone)
