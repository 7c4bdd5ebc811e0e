"""Our Sinkhorn against those of POT and geomloss, forward and backward, at equal iterations.

    python benchmarks/sinkhorn.py --output benchmarks/results/sinkhorn_cpu.json

Costs are squared distances of random points, each problem's divided by its mean, temperature 0.05.
All solvers are given the same costs and rounds; what they leave of the marginals is told beside the
time. geomloss anneals the temperature and averages both potentials, so it is given as many rounds
as it needs to come as close to the marginals as ours. Backward is the gradient of the
transport cost, which for all of them is the plan. They take turns in one process.
Needs ``pip install -e '.[benchmarks]'``.
"""

from __future__ import annotations

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ot
import ot.batch
import torch
from torch import Tensor
from turns import ratio, take_turns, tell

from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.transport import sinkhorn
from geodm_lightning.transport.coupling import marginal_error

SHAPES = ((10, 256, 10), (100, 128, 50), (1000, 64, 10), (10, 2048, 50))
EPSILON = 0.05
NUM_ITERS = 50
OURS = "ours"
Solver = Callable[[Tensor], tuple[Tensor, Tensor]]  # costs -> plans, gradient of the costs


def ours(cost: Tensor) -> tuple[Tensor, Tensor]:
    plan = sinkhorn(cost, epsilon=EPSILON, num_iters=NUM_ITERS).plan
    return plan, _gradient((plan * cost).sum(), cost)


def pot_batch(cost: Tensor) -> tuple[Tensor, Tensor]:
    result = ot.batch.solve_batch(cost, EPSILON, max_iter=NUM_ITERS, tol=0, method="log_sinkhorn")
    return result.plan, _gradient(result.value.sum(), cost)


def pot_plain(cost: Tensor, *, method: str = "sinkhorn") -> tuple[Tensor, Tensor]:
    plans = []
    for problem in cost.detach():
        rows, columns = (problem.new_full((n,), 1 / n) for n in problem.shape)
        with warnings.catch_warnings():  # that it has not converged after so many rounds
            warnings.simplefilter("ignore")
            options = {"numItermax": NUM_ITERS, "stopThr": 0, "warn": False}
            plans.append(ot.sinkhorn(rows, columns, problem, EPSILON, method=method, **options))
    plan = torch.stack(plans)
    return plan, _gradient((plan * cost).sum(), cost)


def pot_log(cost: Tensor) -> tuple[Tensor, Tensor]:
    return pot_plain(cost, method="sinkhorn_log")


def geomloss_solver(num_iters: int) -> Solver:
    import geomloss.ot

    def solve(cost: Tensor) -> tuple[Tensor, Tensor]:
        result = geomloss.ot.solve_batch(cost.detach(), reg=EPSILON, max_iter=num_iters)
        plan = result.plan
        return plan, _gradient((plan * cost).sum(), cost)

    return solve


def _gradient(value: Tensor, cost: Tensor) -> Tensor:
    return torch.autograd.grad(value, cost)[0]


def draw_cost(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    classes, num_rows, num_columns = shape
    generator = keyed_generator(0, "benchmark", *shape)
    x, y = (torch.randn(classes, n, 64, generator=generator) for n in (num_rows, num_columns))
    cost = torch.cdist(x, y + 0.5).square()
    return (cost / cost.mean((-2, -1), keepdim=True)).to(device).requires_grad_()


def rounds_needed(cost: Tensor, error: float) -> int:
    """Rounds after which geomloss is no further from the marginals, 400 at most."""
    for num_iters in (50, 100, 200):
        if marginal_error(geomloss_solver(num_iters)(cost)[0]).mean().item() <= error:
            return num_iters
    return 400


def measure_shape(
    shape: tuple[int, int, int], device: torch.device, repeats: int
) -> dict[str, Any]:
    """Time all solvers at one shape."""
    cost = draw_cost(shape, device)
    error = marginal_error(ours(cost)[0]).mean().item()
    rounds = rounds_needed(cost, error)
    solvers: dict[str, Solver] = {
        OURS: ours,
        "POT, batched": pot_batch,
        "POT, class by class, logarithms": pot_log,
        "POT, class by class, plain": pot_plain,
        f"geomloss, batched, {rounds} rounds": geomloss_solver(rounds),
    }
    times = take_turns(
        {name: lambda _, s=solver: s(cost) for name, solver in solvers.items()},  # type: ignore[misc]
        device,
        repeats,
    )
    plan = ours(cost)[0]
    rows = {}
    for name, solver in solvers.items():
        other, gradient = solver(cost)
        rows[name] = {
            "milliseconds": 1000 * statistics.median(times[name]),
            "ratio to ours": ratio(times, name, OURS),
            "marginal error": marginal_error(other).mean().item(),
            "plan differs by": (other - plan).abs().sum((-2, -1)).max().item() / 2,
            "gradient differs by": (gradient - plan).abs().sum((-2, -1)).max().item() / 2,
        }
    return {"shape": dict(zip(("problems", "n", "m"), shape, strict=True)), "solvers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    result = {
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "epsilon": EPSILON,
        "iterations": NUM_ITERS,
        "shapes": [measure_shape(shape, device, arguments.repeats) for shape in SHAPES],
        "provenance": provenance(device),
    }
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
