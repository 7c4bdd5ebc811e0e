import math
from dataclasses import replace

import pytest

from geodm_lightning.evaluation.comparison import compare
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.types import InputError


@pytest.fixture
def make(tiny_a):
    def build(label, *means, protocol=tiny_a):
        students = tuple(
            StudentResult(seed, index, "set", mean + shift, 0.5, 1.0, 16, 1.0, 100)
            for seed, mean in enumerate(means)
            for index, shift in enumerate((-0.01, 0.01))
        )
        return EvaluationResult(label.lower(), label, "digits", 10, 100, protocol, students)

    return build


def test_known_answer(make):
    comparison = compare(make("GeoDM", 0.62, 0.66, 0.70), make("DM", 0.60, 0.62, 0.64))
    # differences 2, 4, 6 points: mean 4, deviation 2, t = 4 / (2 / sqrt 3)
    assert list(comparison.differences.values()) == pytest.approx([0.02, 0.04, 0.06])
    assert comparison.mean == pytest.approx(0.04)
    assert comparison.t == pytest.approx(2 * math.sqrt(3))
    # closed form of the t distribution with 2 degrees of freedom
    t = comparison.t
    assert comparison.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_turning_round_changes_the_sign_only(make):
    ours, theirs = make("GeoDM", 0.7, 0.8, 0.8), make("DM", 0.6, 0.75, 0.78)
    forth, back = compare(ours, theirs), compare(theirs, ours)
    assert (back.mean, back.t, back.p) == pytest.approx((-forth.mean, -forth.t, forth.p))


def test_refusals(make, tiny_a):
    ours = make("GeoDM", 0.7, 0.8)
    with pytest.raises(InputError, match="needs the same seeds, at least two"):
        compare(ours, make("DM", 0.6))
    with pytest.raises(InputError, match="needs the same seeds, at least two"):
        compare(make("GeoDM", 0.7), make("DM", 0.6))
    with pytest.raises(InputError, match="judged under different protocols"):
        compare(ours, make("DM", 0.6, 0.7, protocol=replace(tiny_a, lr=0.5)))
    taught = replace(ours, supervision=Supervision("lia", "LIA", mse=1.0, teachers="all"))
    with pytest.raises(InputError, match="from Hard labels, those on GeoDM from LIA"):
        compare(ours, taught)
