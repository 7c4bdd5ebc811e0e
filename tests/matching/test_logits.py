"""Transport between answers: a plain loop, POT, the gradient, what must not change it."""

import math

import numpy as np
import ot
import pytest
import torch
from torch.nn import functional as F

from geodm_lightning.matching.logits import logit_transport
from geodm_lightning.types import InputError


@pytest.fixture
def answers(device, rng):
    """Logits of a student and of its teacher ``(n, K)``."""

    def draw(num=6, classes=4, dtype=torch.float64):
        options = {"generator": rng, "device": device, "dtype": dtype}
        return 2 * torch.randn(num, classes, **options), 3 * torch.randn(num, classes, **options)

    return draw


def softmax(logits, temperature):
    powers = [[math.exp(value / temperature) for value in row] for row in logits.tolist()]
    return [[power / sum(row) for power in row] for row in powers]


def test_equals_a_plain_loop(answers):
    student, teacher = answers()
    ours, theirs = softmax(student, 2.0), softmax(teacher, 2.0)
    cost = [[sum(abs(a - b) for a, b in zip(s, t, strict=True)) for t in theirs] for s in ours]
    plan = [[math.exp(-c / 0.1) for c in row] for row in cost]
    size = range(len(plan))
    for _ in range(20):
        plan = [[p / sum(row) for p in row] for row in plan]
        sums = [sum(plan[i][j] for i in size) for j in size]
        plan = [[plan[i][j] / sums[j] for j in size] for i in size]
    expected = sum(plan[i][j] * cost[i][j] for i in size for j in size)
    assert logit_transport(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_converged_is_the_entropic_cost_of_pot_times_the_batch_size(answers):
    student, teacher = answers(num=8)
    cost = torch.cdist(F.softmax(student / 3, 1), F.softmax(teacher / 3, 1), p=1.0).cpu().numpy()
    uniform = np.full(8, 1 / 8)
    plan = ot.sinkhorn(uniform, uniform, cost, reg=0.2, numItermax=5000, stopThr=1e-13)
    actual = logit_transport(student, teacher, temperature=3.0, epsilon=0.2, num_iters=2000)
    assert actual.item() == pytest.approx(8 * float((plan * cost).sum()), rel=1e-8)


def test_gradient_reaches_the_student_alone_and_is_that_of_finite_differences(answers):
    student, teacher = (logits.requires_grad_() for logits in answers(num=4))
    assert torch.autograd.gradcheck(lambda s: logit_transport(s, teacher, num_iters=5), (student,))
    logit_transport(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_order_of_the_batch_does_not_matter(answers):
    student, teacher = answers()
    mixed = logit_transport(student.flip(0), teacher.roll(2, 0))
    torch.testing.assert_close(mixed, logit_transport(student, teacher))


def test_right_answers_that_differ_cost_nothing(device):
    teacher = 40 * torch.eye(5, device=device)
    loss = logit_transport(teacher.clone(), teacher)
    assert loss.item() < 1e-6
    wrong = logit_transport(teacher.roll(1, 1)[:1].expand(5, 5), teacher)
    # all five answer class 1: only the image whose teacher says so is right
    assert wrong.item() == pytest.approx(4 * 2.0, abs=1e-5)


def test_sharp_plans_do_not_underflow(answers):
    student, teacher = answers(dtype=torch.float32)
    student.requires_grad_()
    # exp(−1 / 1e-4) is 0 in any precision; the sharp plan costs what the best matching does
    loss = logit_transport(student, teacher, epsilon=1e-4, num_iters=2000)
    cost = torch.cdist(F.softmax(student / 2, 1), F.softmax(teacher / 2, 1), p=1.0)
    uniform = np.full(6, 1 / 6)
    best = 6 * ot.emd2(uniform, uniform, cost.detach().double().cpu().numpy())
    assert loss.item() == pytest.approx(best, rel=2e-2)
    loss.backward()
    assert student.grad.isfinite().all()


def test_autocast_does_not_round_it(answers):
    student, teacher = answers(dtype=torch.float32)
    expected = logit_transport(student, teacher)
    with torch.autocast(student.device.type, dtype=torch.bfloat16):
        assert torch.equal(logit_transport(student, teacher), expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be positive, got nan"),
        ({"num_iters": 0}, "num_iters must be at least 1, got 0"),
    ],
)
def test_refuses_numbers_that_solve_nothing(options, named):
    with pytest.raises(InputError, match=named):
        logit_transport(torch.zeros(2, 3), torch.zeros(2, 3), **options)


def test_refuses_answers_to_other_classes():
    with pytest.raises(InputError, match=r"\(2, 3\), those of the teachers \(2, 4\)"):
        logit_transport(torch.zeros(2, 3), torch.zeros(2, 4))
