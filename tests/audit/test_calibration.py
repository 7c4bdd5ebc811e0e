"""Calibration error: closed forms, a slow reference, what may be added, what is refused."""

import math

import pytest
import torch

from geodm_lightning.audit.calibration import (
    confidence_sums,
    expected_calibration_error,
    reliability,
)
from geodm_lightning.types import InputError


def answers(confidence, num):
    """Two-class logits that choose class 0 with the given confidence."""
    odds = math.log(confidence / (1 - confidence))
    return torch.tensor([odds, 0.0], dtype=torch.float64).expand(num, 2)


def slow(logits, labels, num_bins):
    """Mean gap of accuracy and confidence, one answer and one bin at a time."""
    bins = [[] for _ in range(num_bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        weights = [math.exp(value - max(row)) for value in row]
        confidence = max(weights) / sum(weights)
        for i, members in enumerate(bins):
            if i / num_bins < confidence <= (i + 1) / num_bins:
                members.append((confidence, float(row.index(max(row)) == label)))
    gaps = [abs(sum(c for c, _ in members) - sum(r for _, r in members)) for members in bins]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("confidence", [0.55, 0.7, 0.75, 0.9])
def test_constant_confidence_costs_its_distance_from_the_accuracy(confidence):
    labels = torch.tensor([0] * 75 + [1] * 25)  # class 0 is right in three of four cases
    error = expected_calibration_error(confidence_sums(answers(confidence, 100), labels))
    assert error == pytest.approx(abs(confidence - 0.75), abs=1e-12)


def test_honest_confidence_costs_nothing():
    shares = [0.6, 0.75, 0.9]
    logits = torch.cat([answers(share, 20) for share in shares])
    labels = torch.cat([(torch.arange(20) >= round(20 * share)).long() for share in shares])
    sums = confidence_sums(logits, labels)
    assert expected_calibration_error(sums) == pytest.approx(0, abs=1e-12)
    bars = reliability(sums)
    assert [round(bar.share * 60) for bar in bars] == [20, 20, 20]
    assert [bar.accuracy for bar in bars] == pytest.approx(shares)
    assert [bar.confidence for bar in bars] == pytest.approx(shares)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_equals_a_slow_count(device, rng, num_bins):
    logits = 2 * torch.randn(300, 5, generator=rng, device=device, dtype=torch.float64)
    labels = torch.randint(5, (300,), generator=rng, device=device)
    found = expected_calibration_error(confidence_sums(logits, labels, num_bins=num_bins))
    assert found == pytest.approx(slow(logits, labels, num_bins), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_bin_holds_its_upper_end(num_classes):
    """An answer without any idea is as sure as the first of as many bins as classes allows."""
    sums = confidence_sums(
        torch.zeros(3, num_classes), torch.zeros(3, dtype=torch.int64), num_bins=num_classes
    )
    assert sums[0].tolist() == [3] + [0] * (num_classes - 1)


def test_batches_and_students_add_up(device, rng):
    logits = torch.randn(3, 50, 4, generator=rng, device=device)
    labels = torch.randint(4, (50,), generator=rng, device=device)
    together = confidence_sums(logits, labels)
    parts = [confidence_sums(logits[:, i], labels[i]) for i in (slice(0, 7), slice(7, 50))]
    torch.testing.assert_close(sum(parts), together)
    for student, sums in zip(logits, together, strict=True):
        torch.testing.assert_close(confidence_sums(student, labels), sums)
    assert together[:, 0].sum(-1).tolist() == [50] * 3


def test_half_precision_is_summed_in_double():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.bfloat16).expand(70_000, 2)
    sums = confidence_sums(logits, torch.zeros(70_000, dtype=torch.int64))
    assert sums.dtype == torch.float64
    assert sums[0].sum() == 70_000
    assert expected_calibration_error(sums) == pytest.approx(1 / (1 + math.exp(20)), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "num_bins", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), 15, "do not fit"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), 15, "do not fit"),
        (torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64), 15, "do not fit"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0, "at least 1 bin"),
    ],
)
def test_refuses_answers_that_do_not_fit(logits, labels, num_bins, message):
    with pytest.raises(InputError, match=message):
        confidence_sums(logits, labels, num_bins=num_bins)


@pytest.mark.parametrize(
    "sums", [torch.zeros(3, 15), torch.full((3, 2), math.nan), torch.ones(2, 15)]
)
def test_refuses_sums_of_nothing(sums):
    with pytest.raises(InputError, match=r"no answer|must be"):
        expected_calibration_error(sums)
