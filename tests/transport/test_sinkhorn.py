import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from geodm_lightning.transport import entropic_cost, exact_cost, sinkhorn, sinkhorn_divergence
from geodm_lightning.types import InputError

RTOL = {torch.float32: 1e-4, torch.float64: 1e-8}


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)


def draw_cost(rng, device, dtype, *shape, n=7, m=5) -> Tensor:
    x = torch.randn(*shape, n, 3, generator=rng, device=device, dtype=dtype)
    return squared(x, torch.randn(*shape, m, 3, generator=rng, device=device, dtype=dtype))


def divergence(x: Tensor, y: Tensor, epsilon: float, num_iters: int = 200) -> Tensor:
    costs = [squared(a, b) for a, b in [(x, y), (x, x), (y, y)]]
    return sinkhorn_divergence(*costs, epsilon=epsilon, num_iters=num_iters)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_plan_agrees_with_pot(device, rng, dtype, epsilon):
    cost = draw_cost(rng, device, dtype)
    expected = ot.sinkhorn(
        [], [], cost.double().cpu().numpy(), reg=epsilon, method="sinkhorn_log", numItermax=5000
    )
    solution = sinkhorn(cost, epsilon=epsilon, num_iters=5000)
    plan = solution.plan.double().cpu().numpy()
    np.testing.assert_allclose(plan, expected, rtol=0, atol=1e-5)
    assert solution.marginal_error < 1e-5


@pytest.mark.parametrize("epsilon", [0.5, 5.0])
def test_plan_is_made_of_its_potentials(device, rng, dtype, epsilon):
    cost = draw_cost(rng, device, dtype, 2)
    plan, f, g, _ = sinkhorn(cost, epsilon=epsilon, num_iters=300)
    exponent = (f[..., :, None] + g[..., None, :] - cost) / epsilon
    torch.testing.assert_close(plan, exponent.exp() / 35, rtol=1e-3, atol=1e-7)


def test_low_temperature_is_exact_transport(device, rng):
    cost = draw_cost(rng, device, torch.float64, n=6, m=6)
    expected = ot.emd2([], [], cost.cpu().numpy())
    actual = entropic_cost(cost, epsilon=0.01, num_iters=3000)
    assert actual.item() == pytest.approx(expected, rel=1e-3)


def test_high_temperature_is_the_uniform_plan(device, rng, dtype):
    plan = sinkhorn(draw_cost(rng, device, dtype), epsilon=1e7, num_iters=2).plan
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / 35), rtol=1e-4, atol=0)


def test_permuted_set_is_found_again(device, rng, dtype):
    x = torch.randn(8, 3, generator=rng, device=device, dtype=dtype)
    order = torch.randperm(8, generator=rng, device=device)
    cost = squared(x, x[order])
    values = [entropic_cost(cost, epsilon=e, num_iters=500).item() for e in (1.0, 0.1, 0.01)]
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(0, abs=1e-4)
    plan = sinkhorn(cost, epsilon=0.01, num_iters=500).plan
    assert torch.equal(plan.argmax(-1)[order], torch.arange(8, device=device))


def test_marginal_error_is_the_missing_mass(device, rng, dtype):
    cost = draw_cost(rng, device, dtype, 3)
    plan, _, _, error = sinkhorn(cost, epsilon=0.05, num_iters=2)
    rows = (plan.sum(-1) - 1 / 7).abs().sum(-1)
    columns = (plan.sum(-2) - 1 / 5).abs().sum(-1)
    torch.testing.assert_close(error, rows + columns)
    assert (rows > 1e-3).any()  # far from converged
    assert (columns < 1e-5).all()  # updated last


def test_batches_and_temperatures_are_independent(device, rng, dtype):
    cost = draw_cost(rng, device, dtype, 2, 3)
    epsilon = torch.linspace(0.5, 3.0, 6, device=device, dtype=dtype).reshape(2, 3)
    batched = sinkhorn(cost, epsilon=epsilon, num_iters=20)
    for i in range(2):
        for j in range(3):
            single = sinkhorn(cost[i, j], epsilon=epsilon[i, j].item(), num_iters=20)
            for whole, part in zip(batched, single, strict=True):
                torch.testing.assert_close(whole[i, j], part, rtol=1e-4, atol=1e-6)


def test_unit_of_the_costs_does_not_matter(device, rng, dtype):
    cost = draw_cost(rng, device, dtype)
    one = sinkhorn(cost, epsilon=0.5, num_iters=50)
    other = sinkhorn(cost * 1024, epsilon=512.0, num_iters=50)
    torch.testing.assert_close(one.plan, other.plan)
    torch.testing.assert_close(one.f * 1024, other.f)


def test_tiny_temperature_stays_finite_in_float32(device, rng):
    cost = 1e3 * draw_cost(rng, device, torch.float32)
    solution = sinkhorn(cost, epsilon=1e-3, num_iters=20)
    assert all(member.isfinite().all() for member in solution)


def test_half_precision_is_solved_in_float32(device, rng):
    cost = draw_cost(rng, device, torch.float32).bfloat16()
    half = sinkhorn(cost, epsilon=1.0, num_iters=20)
    assert half.plan.dtype == torch.float32
    assert torch.equal(half.plan, sinkhorn(cost.float(), epsilon=1.0, num_iters=20).plan)


def test_autocast_does_not_reach_the_iterations(device, rng):
    cost = torch.rand(3, 40, 10, generator=rng, device=device)
    expected = sinkhorn(cost, epsilon=0.05, num_iters=50)
    with torch.autocast(device.type, torch.bfloat16):
        found = sinkhorn(cost, epsilon=0.05, num_iters=50)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_costs_are_left_alone_and_the_plan_has_no_gradient(device, rng):
    cost = draw_cost(rng, device, torch.float32).requires_grad_()
    before = cost.detach().clone()
    solution = sinkhorn(cost, epsilon=1.0, num_iters=5)
    assert torch.equal(cost, before)
    assert not any(member.requires_grad for member in solution)


def test_envelope_gradient_is_that_of_unrolled_iterations(device, rng):
    cost = draw_cost(rng, device, torch.float64).requires_grad_()
    epsilon = 0.7
    f, g = cost.new_zeros(7), cost.new_zeros(5)
    for _ in range(300):  # plain autograd through the iterations, on the dual value
        f = -epsilon * ((g - cost) / epsilon).logsumexp(-1) + epsilon * math.log(5)
        g = -epsilon * ((f[:, None] - cost) / epsilon).logsumexp(-2) + epsilon * math.log(7)
    (unrolled,) = torch.autograd.grad(f.mean() + g.mean(), cost)
    (envelope,) = torch.autograd.grad(entropic_cost(cost, epsilon=epsilon, num_iters=300), cost)
    torch.testing.assert_close(envelope, unrolled, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("epsilon", [2.0, 20.0, 200.0])
def test_translation_costs_squared_length(device, rng, dtype, epsilon):
    x = torch.randn(2, 8, 3, generator=rng, device=device, dtype=dtype)
    v = torch.tensor([1.0, -2.0, 2.0], device=device, dtype=dtype)
    expected = v.square().sum().expand(2)  # closed form, at every temperature
    torch.testing.assert_close(divergence(x, x + v, epsilon), expected, rtol=RTOL[dtype], atol=0)


def test_divergence_at_high_temperature_is_mean_matching(device, rng):
    x = torch.randn(8, 3, generator=rng, device=device, dtype=torch.float64)
    y = torch.randn(5, 3, generator=rng, device=device, dtype=torch.float64)
    expected = (x.mean(0) - y.mean(0)).square().sum()
    torch.testing.assert_close(divergence(x, y, 1e6), expected, rtol=1e-4, atol=0)


def test_divergence_at_low_temperature_is_exact_transport(device, rng):
    x = torch.randn(6, 2, generator=rng, device=device, dtype=torch.float64)
    y = torch.randn(6, 2, generator=rng, device=device, dtype=torch.float64)
    exact = exact_cost(squared(x, y)).item()
    assert divergence(x, y, 0.01, num_iters=3000).item() == pytest.approx(exact, rel=1e-2)


def test_divergence_of_equal_clouds_is_zero(device, rng, dtype):
    x = torch.randn(6, 2, generator=rng, device=device, dtype=dtype)
    assert divergence(x, x.flip(0), 0.5).item() == pytest.approx(0, abs=1e-5)


def test_divergence_gradient_matches_finite_differences(device, rng):
    x = torch.randn(3, 2, generator=rng, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 2, generator=rng, device=device, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: divergence(x, y, 1.0), (x,))


@pytest.mark.parametrize("function", [sinkhorn, entropic_cost])
@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), torch.tensor([1.0, -2.0])])
def test_refuses_temperatures_that_are_not_positive(function, epsilon):
    with pytest.raises(InputError, match="epsilon must be positive and finite, got"):
        function(torch.zeros(2, 2, 2), epsilon=epsilon, num_iters=1)


def test_refuses_no_iterations():
    with pytest.raises(InputError, match="num_iters must be at least 1, got 0"):
        sinkhorn(torch.zeros(2, 2), epsilon=1.0, num_iters=0)


def log_domain(cost: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Plan after as many rounds of the textbook algorithm on logarithms, in float64."""
    kernel = cost.double() / -epsilon
    num_rows, num_columns = kernel.shape[-2:]
    g = kernel.new_zeros(*kernel.shape[:-2], num_columns)
    for _ in range(num_iters):
        f = math.log(num_columns) - (kernel + g[..., None, :]).logsumexp(-1)
        g = math.log(num_rows) - (kernel + f[..., None]).logsumexp(-2)
    return (kernel + f[..., None] + g[..., None, :]).exp() / (num_rows * num_columns)


# From uniform plans down to kernels of which float32 holds no more than a few entries.
@pytest.mark.parametrize("epsilon", [1e3, 1.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("num_iters", [1, 2, 26, 27, 90])
def test_every_iteration_is_that_of_the_log_domain(device, rng, dtype, epsilon, num_iters):
    cost = draw_cost(rng, device, dtype, 3, n=12, m=9)
    plan = sinkhorn(cost, epsilon=epsilon, num_iters=num_iters).plan
    # Rounding of the costs in units of the temperature is what float32 cannot do better.
    bound = 20 * torch.finfo(dtype).eps * max(1.0, cost.max().item() / epsilon)
    expected = log_domain(cost, epsilon, num_iters)
    torch.testing.assert_close(plan.double(), expected, rtol=0, atol=bound / 9)


@pytest.mark.parametrize("num_iters", [26, 45, 51, 52, 76])
def test_potentials_that_run_away_are_followed_on_logarithms(device, num_iters):
    # Nine tenths of the rows, one tenth of the columns on one side of a valley too wide to cross
    # before the potentials have climbed it: they rise by log 9 in every iteration.
    rows, columns = (torch.arange(50, device=device) < count for count in (45, 5))
    cost = 216.0 * (rows[:, None] ^ columns)
    for dtype in (torch.float32, torch.float64):
        plan = sinkhorn(cost.to(dtype), epsilon=1.0, num_iters=num_iters).plan
        expected = log_domain(cost, 1.0, num_iters)
        torch.testing.assert_close(plan.double(), expected, rtol=1e-3, atol=1e-30)


def test_a_sharp_problem_does_not_touch_those_beside_it(device, rng):
    cost = draw_cost(rng, device, torch.float32, 4, n=30, m=8)
    epsilon = torch.tensor([1.0, 1e-5, 0.5, 1e-4], device=device)
    together = sinkhorn(cost, epsilon=epsilon, num_iters=60)
    for i in (0, 2):
        others = torch.tensor([0, 2], device=device)
        alone = sinkhorn(cost[others], epsilon=epsilon[others], num_iters=60)
        assert torch.equal(together.plan[i], alone.plan[i // 2])
    assert together.plan.isfinite().all()


def test_tolerance_stops_early_and_not_too_early(device, rng, dtype):
    cost = draw_cost(rng, device, dtype, 5, n=20, m=10)
    loose = sinkhorn(cost, epsilon=0.5, num_iters=100_000, tolerance=1e-3)
    assert (loose.marginal_error <= 1e-3).all()
    rough = sinkhorn(cost, epsilon=0.5, num_iters=26)
    assert (rough.marginal_error > 1e-3).any()  # so it had something to do
    full = sinkhorn(cost, epsilon=0.5, num_iters=2000)
    torch.testing.assert_close(loose.plan, full.plan, rtol=0, atol=1e-3)


@pytest.mark.parametrize("tolerance", [-1e-3, float("nan")])
def test_refuses_a_tolerance_that_is_no_mass(tolerance):
    with pytest.raises(InputError, match="tolerance must be a mass from 0"):
        sinkhorn(torch.zeros(2, 2), epsilon=1.0, num_iters=5, tolerance=tolerance)


@pytest.mark.parametrize("shape", [(10, 256, 10), (5, 3, 2000, 50)])
def test_plans_do_not_depend_on_the_number_of_threads(shape):
    *batch, n, m = shape
    generator = torch.Generator().manual_seed(0)
    cost = draw_cost(generator, "cpu", torch.float32, *batch, n=n, m=m)
    epsilon = 0.05 * cost.mean((-2, -1))
    before, found = torch.get_num_threads(), []
    for count in (1, 4):
        torch.set_num_threads(count)
        found.append(sinkhorn(cost, epsilon=epsilon, num_iters=30))
    torch.set_num_threads(before)
    for one, four in zip(*found, strict=True):
        assert four.shape == one.shape
        torch.testing.assert_close(four, one, rtol=1e-4, atol=1e-5)
