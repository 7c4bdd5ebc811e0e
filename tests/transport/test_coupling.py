import math

import pytest
import torch

from geodm_lightning.transport import marginal_error, plan_contrast, relative_entropy, sinkhorn


def test_a_uniform_plan_is_at_the_end_of_every_scale(device, dtype):
    uniform = torch.full((2, 3, 4), 1 / 12, device=device, dtype=dtype)
    ones = torch.ones_like(uniform[:, 0, 0])
    torch.testing.assert_close(relative_entropy(uniform), ones)
    torch.testing.assert_close(plan_contrast(uniform), 0 * ones, rtol=0, atol=1e-6)
    torch.testing.assert_close(marginal_error(uniform), 0 * ones, rtol=0, atol=1e-6)


def test_a_one_to_one_plan_has_known_numbers(device, dtype):
    plan = torch.eye(4, device=device, dtype=dtype) / 4
    assert relative_entropy(plan).item() == pytest.approx(math.log(4) / math.log(16))
    assert plan_contrast(plan).item() == pytest.approx(1 - 1 / 4)
    assert marginal_error(plan) == 0


def test_a_single_cell_is_uniform(device, dtype):
    plan = torch.ones(1, 1, device=device, dtype=dtype)
    assert relative_entropy(plan) == 1
    assert plan_contrast(plan) == 0


def test_marginal_error_counts_rows_and_columns(device, dtype):
    plan = torch.tensor([[0.75, 0.0], [0.0, 0.25]], device=device, dtype=dtype)
    assert marginal_error(plan).item() == pytest.approx(1.0)


def test_contrast_falls_with_temperature_where_entropy_is_blind(device, rng, dtype):
    cost = 1 + 0.02 * torch.rand(256, 10, generator=rng, device=device, dtype=dtype)
    plans = [sinkhorn(cost, epsilon=e, num_iters=50).plan for e in (0.01, 0.05, 1.0)]
    contrasts = [plan_contrast(plan).item() for plan in plans]
    assert contrasts[0] > 0.1 > contrasts[1] > 0.01 > contrasts[2]
    assert relative_entropy(plans[1]) > 0.995  # nearly 1 at seven times the threshold
