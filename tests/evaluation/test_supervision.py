"""Losses of students: by hand, by other formulas, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
import torch

from geodm_lightning.evaluation.supervision import (
    HARD,
    StudentBatch,
    Supervision,
    student_loss,
)
from geodm_lightning.matching.logits import logit_transport
from geodm_lightning.types import InputError

SOFT = Supervision("lia", "LIA", ce=0.025, mse=1.0, teachers="aligned")


@pytest.fixture
def batch(rng, device):
    draw = {"generator": rng, "device": device}
    return StudentBatch(
        images=torch.zeros(5, 1, 2, 2, device=device),
        labels=torch.tensor([0, 1, 2, 3, 0], device=device),
        partner_labels=torch.tensor([1, 1, 0, 2, 3], device=device),
        shares=torch.tensor([1.0, 0.25, 0.5, 0.75, 0.0], device=device),
        logits=2 * torch.randn(5, 4, **draw),
    )


@pytest.fixture
def logits(rng, device):
    return torch.randn(5, 4, generator=rng, device=device)


def log_probabilities(logits, temperature=1.0):
    rows = []
    for row in logits.tolist():
        total = math.log(sum(math.exp(value / temperature) for value in row))
        rows.append([value / temperature - total for value in row])
    return rows


def test_hard_labels_are_mixed_by_area(logits, batch):
    logs, (_, own, other, shares, *_) = log_probabilities(logits), batch
    pairs = zip(logs, own.tolist(), other.tolist(), shares.tolist(), strict=True)
    expected = sum(-share * row[a] - (1 - share) * row[b] for row, a, b, share in pairs) / 5
    assert student_loss(logits, batch, HARD).item() == pytest.approx(expected, rel=1e-6)


def test_beside_teachers_the_class_is_the_images_own(logits, batch):
    logs = log_probabilities(logits)
    entropy = -sum(row[a] for row, a in zip(logs, batch.labels.tolist(), strict=True)) / 5
    squares = (logits - batch.logits).square().sum().item() / 20
    expected = 0.025 * entropy + squares
    assert student_loss(logits, batch, SOFT).item() == pytest.approx(expected, rel=1e-5)


def test_divergence_is_that_from_the_teachers_by_hand(logits, batch):
    only = replace(SOFT, ce=0.0, mse=0.0, kl=2.0, kl_temperature=5.0)
    wanted, found = log_probabilities(batch.logits, 5.0), log_probabilities(logits, 5.0)
    expected = sum(
        math.exp(t) * (t - s)
        for row, own in zip(wanted, found, strict=True)
        for t, s in zip(row, own, strict=True)
    )
    assert student_loss(logits, batch, only).item() == pytest.approx(2 * expected / 5, rel=1e-4)
    at_teacher = student_loss(batch.logits.clone(), batch, only)
    assert at_teacher.item() == pytest.approx(0.0, abs=1e-6)


def test_labels_of_images_are_mixed_as_the_images_are(logits, batch):
    """The gradient is that to the mixed target, once for each kind of loss."""
    partner = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    mixed = batch._replace(partner_logits=partner.to(logits.device))
    shares = batch.shares[:, None]

    def gradient(loss):
        student = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(student), student)[0]

    soft = replace(SOFT, ce=0.0, mse=0.0, kl=1.0, kl_temperature=1.0, teachers="own")
    target = shares * batch.logits.softmax(1) + (1 - shares) * mixed.partner_logits.softmax(1)
    found = gradient(lambda student: student_loss(student, mixed, soft))
    expected = gradient(lambda student: -(target * student.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(found, expected)
    squared = replace(SOFT, ce=0.0, teachers="own")
    goal = shares * batch.logits + (1 - shares) * mixed.partner_logits
    found = gradient(lambda student: student_loss(student, mixed, squared))
    expected = gradient(lambda student: (student - goal).square().mean())
    torch.testing.assert_close(found, expected)
    classes = replace(SOFT, mse=1e-12, ce=1.0, teachers="own")
    found = student_loss(logits, mixed, classes)
    torch.testing.assert_close(found, student_loss(logits, batch, HARD))


def test_transport_is_added_with_its_weight(logits, batch):
    matched = replace(SOFT, transport=0.5, transport_temperature=3.0, epsilon=0.2, num_iters=7)
    term = logit_transport(logits, batch.logits, temperature=3.0, epsilon=0.2, num_iters=7)
    expected = student_loss(logits, batch, SOFT) + 0.5 * term
    torch.testing.assert_close(student_loss(logits, batch, matched), expected)


def test_half_precision_answers_are_compared_in_full(logits, batch):
    halves = logits.bfloat16()
    every = replace(SOFT, kl=1.0, transport=1.0)
    for supervision in (HARD, every):
        expected = student_loss(halves.float(), batch, supervision)
        assert torch.equal(student_loss(halves, batch, supervision), expected)


def test_digest_tells_what_decides_the_training_and_no_more():
    assert HARD.digest() == Supervision("plain", "By class").digest() == ""
    changes = {
        "ce": 0.1, "mse": 2.0, "kl": 1.0, "kl_temperature": 4.0, "transport": 0.1,
        "transport_temperature": 1.0, "epsilon": 0.2, "num_iters": 5, "teachers": "all",
    }  # fmt: skip
    assert set(changes) | {"name", "label"} == set(SOFT.to_dict())
    digests = {replace(SOFT, **{name: value}).digest("x") for name, value in changes.items()}
    digests |= {SOFT.digest("x"), SOFT.digest("y"), replace(HARD, ce=0.5).digest()}
    assert len(digests) == len(changes) + 3
    assert replace(SOFT, name="a", label="b").digest("x") == SOFT.digest("x")


def test_json_keeps_it():
    assert Supervision.from_dict(json.loads(json.dumps(SOFT.to_dict()))) == SOFT
    with pytest.raises(InputError, match="do not fit"):
        Supervision.from_dict({**SOFT.to_dict(), "margin": 1})
    with pytest.raises(InputError, match="table of fields, got 'hard'"):
        Supervision.from_dict("hard")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mse": -1.0}, "supervision.lia.mse must be a number from 0, got -1.0"),
        ({"ce": float("nan")}, "supervision.lia.ce"),
        ({"kl": True}, "supervision.lia.kl must be a number from 0, got True"),
        ({"epsilon": 0.0}, "supervision.lia.epsilon must be a positive number, got 0.0"),
        ({"num_iters": 2.5}, "num_iters must be whole: 2.5"),
        ({"num_iters": 0}, "num_iters must be at least 1"),
        ({"teachers": "best"}, "'best'; use aligned, all, own or null"),
        ({"teachers": None}, "has teachers None with mse 1"),
        ({"mse": 0.0}, "has teachers aligned with mse 0"),
        ({"mse": 0.0, "ce": 0.0, "teachers": None}, "no weight above 0"),
        ({"teachers": "own", "transport": 1.0}, "set it to 0 where labels are own"),
    ],
)
def test_refusals(changes, named):
    with pytest.raises(InputError, match=named):
        replace(SOFT, **changes)


def test_teachers_that_say_nothing_are_missed(logits, batch):
    with pytest.raises(InputError, match="supervision lia needs labels"):
        student_loss(logits, batch._replace(logits=None), SOFT)
