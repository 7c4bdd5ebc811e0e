import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from geodm_lightning.transport import sinkhorn, sinkhorn_plan
from geodm_lightning.types import InputError

SHAPES = [(7, 4), (4, 7), (5, 5), (6, 1), (1, 6)]


def draw(rng, device, dtype, *shape) -> Tensor:
    return torch.rand(*shape, generator=rng, device=device, dtype=dtype)


def unrolled_plan(cost: Tensor, epsilon: float, num_iters: int = 400) -> Tensor:
    """Plain autograd through many iterations."""
    n, m = cost.shape[-2:]
    f, g = cost.new_zeros(*cost.shape[:-1], 1), cost.new_zeros(*cost.shape[:-2], 1, m)
    for _ in range(num_iters):
        f = np.log(m) - (g - cost / epsilon).logsumexp(-1, keepdim=True)
        g = np.log(n) - (f - cost / epsilon).logsumexp(-2, keepdim=True)
    return (f + g - cost / epsilon).exp() / (n * m)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_gradient_matches_finite_differences(device, rng, shape):
    cost = draw(rng, device, torch.float64, 2, *shape).requires_grad_()
    epsilon = torch.tensor([0.5, 2.0], device=device, dtype=torch.float64)

    def plan(cost: Tensor) -> Tensor:
        return sinkhorn_plan(cost, epsilon=epsilon, num_iters=100)

    assert torch.autograd.gradcheck(plan, (cost,))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_gradient_is_that_of_unrolled_iterations(device, rng, shape, epsilon):
    cost = draw(rng, device, torch.float64, 2, *shape).requires_grad_()
    target = torch.randn(2, *shape, generator=rng, device=device, dtype=torch.float64)
    plan = sinkhorn_plan(cost, epsilon=epsilon, num_iters=2000)
    expected = unrolled_plan(cost, epsilon)
    torch.testing.assert_close(plan, expected, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad((p * target).sum(), cost)[0] for p in (plan, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_cost_moves_like_finite_differences_of_pot(device, rng, shape):
    cost = draw(rng, device, torch.float64, *shape).requires_grad_()
    change = torch.randn(*shape, generator=rng, device=device, dtype=torch.float64)
    value = (sinkhorn_plan(cost, epsilon=0.2, num_iters=2000) * cost).sum()
    (gradient,) = torch.autograd.grad(value, cost)

    def reference(step: float) -> float:
        moved = (cost.detach() + step * change).cpu().numpy()
        options = {"reg": 0.2, "method": "sinkhorn_log", "numItermax": 5000, "stopThr": 1e-14}
        return (ot.sinkhorn([], [], moved, **options) * moved).sum()

    expected = (reference(1e-5) - reference(-1e-5)) / 2e-5
    assert (gradient * change).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_batched_equals_a_loop(device, rng, dtype, shape):
    cost = draw(rng, device, dtype, 3, 2, *shape).requires_grad_()
    target = torch.randn(3, 2, *shape, generator=rng, device=device, dtype=dtype)
    epsilon = torch.linspace(0.2, 1.0, 6, device=device, dtype=dtype).reshape(3, 2)
    plan = sinkhorn_plan(cost, epsilon=epsilon, num_iters=100)
    (batched,) = torch.autograd.grad((plan * target).sum(), cost)
    for i in range(3):
        for j in range(2):
            single = sinkhorn_plan(cost[i, j], epsilon=epsilon[i, j].item(), num_iters=100)
            (part,) = torch.autograd.grad((single * target[i, j]).sum(), cost)
            torch.testing.assert_close(batched[i, j], part[i, j], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_a_cost_added_to_a_row_or_column_moves_nothing(device, rng, dtype, shape):
    cost = draw(rng, device, dtype, *shape).requires_grad_()
    target = torch.randn(shape, generator=rng, device=device, dtype=dtype)
    plan = sinkhorn_plan(cost, epsilon=0.3, num_iters=5)  # far from convergence as well
    (gradient,) = torch.autograd.grad((plan * target).sum(), cost)
    for sums in (gradient.sum(-1), gradient.sum(-2)):
        torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-5)


def test_half_precision_is_the_gradient_of_float32(device, rng):
    cost = draw(rng, device, torch.float32, 6, 4).bfloat16().requires_grad_()
    plan = sinkhorn_plan(cost, epsilon=0.3, num_iters=100)
    assert plan.dtype == torch.float32
    (gradient,) = torch.autograd.grad(plan[0, 0], cost)
    exact = cost.detach().float().requires_grad_()
    plan = sinkhorn_plan(exact, epsilon=0.3, num_iters=100)
    (expected,) = torch.autograd.grad(plan[0, 0], exact)
    torch.testing.assert_close(gradient.float(), expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("shape", [(256, 10), (10, 256), (40, 40)])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 0.05, 1e3])
def test_float32_agrees_with_float64(device, rng, shape, epsilon):
    cost = draw(rng, device, torch.float64, 2, *shape)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        own = cost.to(dtype).requires_grad_()
        plan = sinkhorn_plan(own, epsilon=epsilon, num_iters=300)
        gradients.append(torch.autograd.grad((plan * own).sum(), own)[0].double())
    assert gradients[0].isfinite().all()
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < (1e-4 if epsilon >= 0.01 else 1e-2)


def test_coincident_points_and_plans_in_pieces_stay_finite(device, dtype):
    for cost in (torch.zeros(2, 6, 4), 1 - torch.eye(5).expand(2, 5, 5), torch.ones(1, 1)):
        own = cost.to(device, dtype).clone().requires_grad_()
        plan = sinkhorn_plan(own, epsilon=1e-3, num_iters=20)
        (gradient,) = torch.autograd.grad((plan * torch.ones_like(plan).cumsum(-1)).sum(), own)
        assert gradient.isfinite().all()


def test_plan_is_the_solvers(device, rng, dtype):
    cost = draw(rng, device, dtype, 3, 6, 4)
    plan = sinkhorn_plan(cost, epsilon=0.2, num_iters=7)
    assert torch.equal(plan, sinkhorn(cost, epsilon=0.2, num_iters=7).plan)


def test_refuses_temperatures_that_are_not_positive():
    with pytest.raises(InputError, match="epsilon must be positive and finite, got 0"):
        sinkhorn_plan(torch.zeros(2, 2), epsilon=0.0, num_iters=1)
