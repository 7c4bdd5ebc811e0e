import itertools

import torch

from geodm_lightning.transport import exact_cost, exact_plan


def test_equals_the_best_permutation(device, rng, dtype):
    cost = torch.rand(2, 3, 4, 4, generator=rng, device=device, dtype=dtype)
    index = torch.arange(4, device=device)
    values = [cost[..., index, list(order)].mean(-1) for order in itertools.permutations(range(4))]
    torch.testing.assert_close(exact_cost(cost), torch.stack(values).amin(0))


def test_plan_has_uniform_marginals(device, rng, dtype):
    plan = exact_plan(torch.rand(3, 4, 6, generator=rng, device=device, dtype=dtype))
    assert plan.device.type == device.type
    assert plan.dtype == dtype
    torch.testing.assert_close(plan.sum(-1), torch.full_like(plan[..., 0], 1 / 4))
    torch.testing.assert_close(plan.sum(-2), torch.full_like(plan[..., 0, :], 1 / 6))


def test_gradient_is_the_plan(device, rng, dtype):
    cost = torch.rand(2, 4, 6, generator=rng, device=device, dtype=dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(exact_cost(cost).sum(), cost)
    torch.testing.assert_close(gradient, exact_plan(cost))
