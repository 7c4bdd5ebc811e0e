"""What each form of transport costs next to the default, forward and backward.

    python benchmarks/transport.py --output benchmarks/results/transport_cpu.json

Random features after a ReLU in E × H × S with learned curvatures and weights, the gradient going
to the synthetic features and the geometry. The forms take turns in one process; a ratio is the
median of the ratios of the turns. POT's log-domain Sinkhorn runs class after class, forward only,
on costs it is given, at as many iterations.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ot
import torch

from geodm_lightning.files import write_json
from geodm_lightning.geometry.product import build_product
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import keep_freed_memory
from geodm_lightning.transport import sinkhorn

SHAPES = ((10, 256, 10, 2048), (10, 256, 40, 2048), (10, 64, 10, 2048))
DEFAULT = "default"
SLICED = {"solver": "sliced", "ground": "factors"}
FORMS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "implicit": {"gradient": "implicit"},
    "debiased": {"debiased": True},
    "factors": {"ground": "factors"},
    "dominant": {"ground": "dominant"},
    "exact": {"solver": "exact"},
    "sliced": SLICED,
    "sliced, 8 slices": {**SLICED, "num_slices": 8},
    "sliced, geodesics": {**SLICED, "hyperbolic_slices": "geodesics"},
    "sliced, great circles": {**SLICED, "spherical_slices": "great_circles"},
}


class Problem:
    """Features of one shape and everything that is timed on them."""

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device) -> None:
        classes, real, synthetic, width = shape
        generator = keyed_generator(0, "benchmark", *shape)
        centre = torch.randn(classes, 1, width, generator=generator)
        draws = [torch.randn(classes, n, width, generator=generator) for n in (real, synthetic)]
        features = scale_features(*((centre + draw).relu().to(device) for draw in draws))
        names = ["euclidean", "hyperbolic", "spherical"]
        self.geometry = build_product(names, curvature=1.0).to(device)
        self.synthetic = features.synthetic.clone().requires_grad_()
        self.features = ScaledFeatures(features.real, self.synthetic, features.norm)
        with torch.no_grad():
            self.cost = self.geometry.cost(features.real, features.synthetic)

    def step(self, options: dict[str, Any]) -> Callable[[int], dict[str, float]]:
        """Forward and backward of one form; returns the diagnostics of its plan."""
        matching = TransportMatching(**options)
        inputs = [self.synthetic, *self.geometry.parameters()]

        def call(turn: int) -> dict[str, float]:
            generator = keyed_generator(0, "slices", turn)
            terms = matching(self.features, self.geometry, generator=generator)
            torch.autograd.grad(terms.cost.sum(), inputs, allow_unused=True)
            named = {"cost": terms.cost, **terms.statistics}
            return {name: value.mean().item() for name, value in named.items()}

        return call

    def ours_alone(self, _: int) -> None:
        """The solver alone, all classes at once."""
        sinkhorn(self.cost, epsilon=0.05 * self.cost.mean((-2, -1)), num_iters=50)

    def pot_alone(self, _: int) -> None:
        """The same iterations by POT, class after class."""
        for cost in self.cost:
            ot.sinkhorn(
                cost.new_full((cost.shape[0],), 1 / cost.shape[0]),
                cost.new_full((cost.shape[1],), 1 / cost.shape[1]),
                cost,
                reg=0.05 * cost.mean().item(),
                method="sinkhorn_log",
                numItermax=50,
                stopThr=0,
                warn=False,
            )


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    calls: dict[str, Callable[[int], Any]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each call in every turn, after one turn that is not counted."""
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            started = time.perf_counter()
            call(turn)
            synchronise(device)
            times[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in times.items()}


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median of the ratios of the turns."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def measure_shape(
    shape: tuple[int, int, int, int], device: torch.device, repeats: int
) -> dict[str, Any]:
    """Time all forms at one shape."""
    problem = Problem(shape, device)
    steps = {name: problem.step(options) for name, options in FORMS.items()}
    times = take_turns(steps, device, repeats)
    solvers = {"ours": problem.ours_alone, "POT, class by class": problem.pot_alone}
    solver_times = take_turns(solvers, device, repeats)
    return {
        "shape": dict(zip(("classes", "real", "synthetic", "width"), shape, strict=True)),
        "forms": {
            name: {
                "seconds": statistics.median(values),
                "ratio to the default": ratio(times, name, DEFAULT),
                **steps[name](0),
            }
            for name, values in times.items()
        },
        "solver alone, 50 iterations": {
            **{name: statistics.median(values) for name, values in solver_times.items()},
            "ratio POT / ours": ratio(solver_times, "POT, class by class", "ours"),
        },
    }


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
        "shapes": [measure_shape(shape, device, arguments.repeats) for shape in SHAPES],
        "provenance": provenance(device),
    }
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
