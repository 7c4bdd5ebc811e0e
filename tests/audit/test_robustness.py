"""Robust scores: a known answer, limits, a simulated error, another derivation, refusals."""

import math
import statistics

import pytest
import torch

from geodm_lightning.audit.robustness import (
    augmentation_robust_score,
    label_robust_score,
    squashed,
)
from geodm_lightning.types import InputError

CELLS = {
    "augmented": [0.61, 0.63, 0.62],
    "random_augmented": [0.40, 0.44, 0.45],
    "plain": [0.50, 0.52, 0.57],
    "random_plain": [0.30, 0.38, 0.31],
}


def test_the_published_example_as_fractions():
    score = label_robust_score(whole=[0.848], hard=[0.718], random=[0.30])
    alpha = 0.5 * (0.718 - 0.30) - 0.5 * (0.848 - 0.718)
    assert score.exponent == pytest.approx(alpha)
    expected = (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert score.value == pytest.approx(expected)
    assert round(score.value, 3) == 0.335


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_the_range_is_attained(weight):
    best = label_robust_score(whole=[0.0], hard=[1.0], random=[0.0], weight=weight)
    worst = label_robust_score(whole=[1.0], hard=[0.0], random=[1.0], weight=weight)
    assert (best.value, worst.value) == (pytest.approx(1), pytest.approx(0))
    cells = {"augmented": [1.0], "plain": [1.0], "random_augmented": [0.0], "random_plain": [0.0]}
    assert augmentation_robust_score(**cells, weight=weight).value == pytest.approx(1)
    turned = {key: [1 - value[0]] for key, value in cells.items()}
    assert augmentation_robust_score(**turned, weight=weight).value == pytest.approx(0)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_set_like_its_references_scores_as_nothing(weight):
    same = [0.4, 0.5]
    neutral = squashed(0.0)
    assert neutral == pytest.approx(1 / (1 + math.e))
    score = label_robust_score(whole=same, hard=same, random=same, weight=weight)
    assert score.value == pytest.approx(neutral)
    cells = dict.fromkeys(CELLS, same)
    assert augmentation_robust_score(**cells, weight=weight).value == pytest.approx(neutral)


def test_better_images_score_higher_and_better_references_lower():
    cells = {"whole": [0.9], "hard": [0.6], "random": [0.4], "soft": [0.7]}
    before = label_robust_score(**cells).value
    for name, sign in {"whole": -1, "hard": 1, "random": -1, "soft": 1}.items():
        moved = {**cells, name: [cells[name][0] + 0.05]}
        assert sign * (label_robust_score(**moved).value - before) > 0


def test_soft_labels_that_are_the_classes_change_nothing():
    cells = {"whole": [0.9], "hard": [0.6], "random": [0.4]}
    assert label_robust_score(**cells, soft=[0.6]) == pytest.approx(label_robust_score(**cells))


def test_weights_choose_a_side():
    only_random = label_robust_score(whole=[0.9], hard=[0.6], random=[0.4], weight=1.0)
    assert only_random.exponent == pytest.approx(0.2)
    only_whole = label_robust_score(whole=[0.9], hard=[0.6], random=[0.4], weight=0.0)
    assert only_whole.exponent == pytest.approx(-0.3)
    assert augmentation_robust_score(**CELLS, weight=1.0).exponent == pytest.approx(0.62 - 0.43)


def test_the_error_is_that_of_repeated_students(rng):
    """Scores of many drawn sets of students spread as the standard error tells."""
    sizes = {"whole": (0.85, 0.010), "hard": (0.70, 0.02), "random": (0.5, 0.03)}
    num, students = 4000, 5
    draws = {
        name: (centre + spread * torch.randn(num, students, generator=rng)).tolist()
        for name, (centre, spread) in sizes.items()
    }
    scores = [
        label_robust_score(**{name: rows[i] for name, rows in draws.items()}, weight=0.3)
        for i in range(num)
    ]
    spread = statistics.stdev(score.value for score in scores)
    told = math.sqrt(statistics.mean(score.standard_error**2 for score in scores))
    assert told == pytest.approx(spread, rel=0.05)
    truth = squashed(0.3 * (0.70 - 0.5) - 0.7 * (0.85 - 0.70))
    held = statistics.mean(score.low <= truth <= score.high for score in scores)
    assert held == pytest.approx(0.95, abs=0.015)


def test_equal_variances_have_the_degrees_of_all_cells():
    """With four cells alike, Welch's t has as many degrees as the pooled one."""
    cells = {name: [0.4, 0.5, 0.6] for name in CELLS}
    score = augmentation_robust_score(**cells)
    error = math.sqrt(4 * 0.25 * 0.01 / 3)  # of the exponent: four means, weights of one half
    quantile = 2.306004  # 97.5 % of Student's t with 4 · (3 - 1) degrees of freedom
    assert score.high == pytest.approx(squashed(quantile * error), rel=1e-6)
    assert score.low == pytest.approx(squashed(-quantile * error), rel=1e-6)
    assert score.standard_error == pytest.approx(error / (math.e - math.exp(-1)))


def test_an_interval_stays_in_range():
    score = label_robust_score(whole=[0.0, 0.0], hard=[1.0, 0.8], random=[0.0, 0.1])
    assert score.low < score.value < score.high <= 1


def test_one_student_has_no_error():
    score = augmentation_robust_score(**{**CELLS, "plain": [0.5]})
    assert (score.standard_error, score.low, score.high) == (None, None, None)
    heard = augmentation_robust_score(**{**CELLS, "plain": [0.5]}, weight=1.0)
    assert heard.standard_error > 0  # the lonely student weighs nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": [84.8]}, "fractions from 0 to 1, got 84.8; divide percents by 100"),
        ({"random": [-0.1]}, "fractions from 0 to 1"),
        ({"hard": [math.nan]}, "fractions from 0 to 1"),
        ({"soft": []}, "has no student"),
        ({"weight": 1.5}, "scores.weight must lie between 0 and 1, got 1.5"),
        ({"weight": math.nan}, "scores.weight must lie"),
        ({"weight": "half"}, "scores.weight must lie"),
    ],
)
def test_refuses_what_is_no_accuracy_or_weight(change, message):
    cells = {"whole": [0.9], "hard": [0.6], "random": [0.4], **change}
    with pytest.raises(InputError, match=message):
        label_robust_score(**cells)
