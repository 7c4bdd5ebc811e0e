"""What each form of transport costs next to the default, forward and backward.

    python benchmarks/transport.py --output benchmarks/results/transport_cpu.json

Random features after a ReLU in E × H × S with learned curvatures and weights, the gradient going
to the synthetic features and the geometry. The forms take turns in one process; a ratio is the
median of the ratios of the turns. Solvers of other libraries are in benchmarks/sinkhorn.py.
"""

from __future__ import annotations

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import ratio, take_turns, tell

from geodm_lightning.geometry.product import build_product
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.matching.scaling import ScaledFeatures, scale_features
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator

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


def measure_shape(
    shape: tuple[int, int, int, int], device: torch.device, repeats: int
) -> dict[str, Any]:
    """Time all forms at one shape."""
    problem = Problem(shape, device)
    steps = {name: problem.step(options) for name, options in FORMS.items()}
    times = take_turns(steps, device, repeats)
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
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
