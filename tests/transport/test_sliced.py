import itertools

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from geodm_lightning.transport import circle_cost, line_cost

SIZES = [(5, 5), (12, 5), (5, 12), (8, 6), (1, 7), (7, 1), (1, 1)]


def draw(rng, device, dtype, *shape) -> Tensor:
    return torch.rand(*shape, generator=rng, device=device, dtype=dtype)


def numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def squared_turns(x: Tensor, y: Tensor) -> np.ndarray:
    gap = np.abs(numpy(x)[:, None] - numpy(y)[None]) % 1
    return np.minimum(gap, 1 - gap) ** 2


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_line_agrees_with_pot(device, rng, dtype, n, m):
    x, y = draw(rng, device, dtype, 2, 3, n), draw(rng, device, dtype, 2, 3, m)
    actual = line_cost(x, y)
    for i, j in itertools.product(range(2), range(3)):
        expected = ot.emd2_1d(numpy(x[i, j]), numpy(y[i, j]), metric="sqeuclidean")
        assert actual[i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        expected = ot.wasserstein_1d(numpy(x[i, j]), numpy(y[i, j]), p=2)
        assert actual[i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_circle_agrees_with_exact_transport(device, rng, dtype, n, m, spread):
    x = spread * draw(rng, device, dtype, 4, n)
    y = spread * draw(rng, device, dtype, 4, m) + draw(rng, device, dtype, 4, 1)
    actual = circle_cost(x, y)
    for i in range(4):  # a linear program on the circular costs knows nothing of cuts
        expected = ot.emd2([], [], squared_turns(x[i], y[i]))
        assert actual[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("n", "m"), [(9, 9), (12, 8), (20, 5)])
def test_circle_agrees_with_the_circular_solver_of_pot(device, rng, n, m):
    x, y = draw(rng, device, torch.float64, n), draw(rng, device, torch.float64, m)
    expected = ot.wasserstein_circle(numpy(x), numpy(y), p=2).item()
    assert circle_cost(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_a_translation_costs_its_square(device, rng, dtype):
    x = draw(rng, device, dtype, 3, 11)
    square = torch.full_like(x[:, 0], 0.3**2)
    torch.testing.assert_close(line_cost(x, x.flip(-1) - 0.3), square)
    arc = 0.1 * x  # a turn of a whole arc, across the branch cut as well
    for start in (0.0, 0.45, 0.8):
        torch.testing.assert_close(circle_cost(arc + start, arc + start + 0.3), square)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (12, 5)])
def test_circle_has_no_preferred_point_orientation_or_branch(device, rng, dtype, n, m):
    x, y = draw(rng, device, dtype, 3, n), draw(rng, device, dtype, 3, m)
    expected = circle_cost(x, y)
    turns = torch.randint(-3, 4, y.shape, generator=rng, device=device)
    for other in (
        circle_cost(x + 0.37, y + 0.37),
        circle_cost(-x, -y),
        circle_cost(y, x),
        circle_cost(x, y + turns),
    ):
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-6)


def test_short_arcs_are_lines(device, rng, dtype):
    x, y = 1e-3 * draw(rng, device, dtype, 3, 7) - 5e-4, 1e-3 * draw(rng, device, dtype, 3, 4)
    torch.testing.assert_close(circle_cost(x, y), line_cost(x, y), rtol=1e-4, atol=0)


@pytest.mark.parametrize("function", [line_cost, circle_cost])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 4), (3, 7)])
def test_gradient_matches_finite_differences(device, rng, function, n, m):
    x = draw(rng, device, torch.float64, 2, n).requires_grad_()
    y = (draw(rng, device, torch.float64, 2, m) + 0.4).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, y))


@pytest.mark.parametrize("function", [line_cost, circle_cost])
def test_coincident_points_cost_nothing_with_finite_gradient(device, dtype, function):
    x = torch.full((2, 6), 0.25, device=device, dtype=dtype).requires_grad_()
    y = torch.full((2, 4), 0.25, device=device, dtype=dtype)
    cost = function(x, y)
    assert (cost == 0).all()
    assert (torch.autograd.grad(cost.sum(), x)[0] == 0).all()


@pytest.mark.parametrize("function", [line_cost, circle_cost])
def test_batched_equals_a_loop_at_the_sizes_of_a_step(device, rng, dtype, function):
    x, y = draw(rng, device, dtype, 2, 3, 256), draw(rng, device, dtype, 2, 3, 39)
    batched = function(x, y)
    single = [function(x[i, j], y[i, j]) for i in range(2) for j in range(3)]
    torch.testing.assert_close(batched, torch.stack(single).reshape(2, 3))
