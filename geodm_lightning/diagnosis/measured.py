"""One kind of features, measured beside its Gaussian controls."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.diagnosis.cloud import (
    Diagnosis,
    diagnose,
    gaussian_control,
    straight_distances,
)
from geodm_lightning.diagnosis.hyperbolicity import relative_hyperbolicity
from geodm_lightning.diagnosis.proposal import Proposal, propose
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

GEOMETRIES = ("euclidean", "hyperbolic", "spherical")


class Sampling(NamedTuple):
    """How many points a measurement looks at.

    Attributes:
        num_images: Points of a cloud, drawn evenly from the classes.
        num_controls: Gaussian clouds beside every cloud of features.
        num_neighbours: Nearest neighbours joined in the graph.
        num_triangles: Triangles drawn.
    """

    num_images: int = 200
    num_controls: int = 3
    num_neighbours: int = 10
    num_triangles: int = 2000


class Measured(NamedTuple):
    """Measures of the features and of their controls, by name.

    Attributes:
        name: What the features are.
        num_neighbours: Neighbours each point was joined to.
        data: Measures of the features.
        controls: Measures of the controls, one value for each.
    """

    name: str
    num_neighbours: int
    data: dict[str, float]
    controls: dict[str, list[float]]

    @property
    def proposal(self) -> Proposal:
        """A start for the product space from these fits."""
        return propose(
            {name: self.data[f"{name}_residual"] for name in GEOMETRIES},
            {name: self.controls[f"{name}_residual"] for name in GEOMETRIES},
            {name: self.data[f"{name}_curvature"] for name in GEOMETRIES[1:]},
        )


def measure(name: str, features: Tensor, *, sampling: Sampling, seed: int) -> Measured:
    """Measure features of all classes, brought to mean norm 1 by one divisor for all classes.

    The cloud holds the first images of every class in turn; covariance and class means are
    those of all images given.

    Args:
        name: What the features are.
        features: ``(C, R, d)``.
        sampling: Sizes.
        seed: Seed of the choice of classes, where not all fit, of controls and of triangles.

    Returns:
        The measures; ``delta_rel_of_means`` is that of the class means.

    Raises:
        InputError: If there are fewer images than the cloud has points, or all are zero.
    """
    if features.shape[:2].numel() < sampling.num_images:
        raise InputError(
            f"num_images is {sampling.num_images}, but only {features.shape[:2].numel()} images "
            "are there; lower it"
        )
    unit = torch.linalg.vector_norm(features, dim=-1).mean()
    if not unit > 0:
        raise InputError(f"the {name} features are all zero or not finite; nothing to measure")
    order = torch.randperm(len(features), generator=keyed_generator(seed, "diagnosis", "classes"))
    features = features[order.to(features.device)] / unit
    points = features.transpose(0, 1).flatten(0, 1)
    generator = keyed_generator(seed, "diagnosis", "controls")
    found = diagnose(
        _beside_controls(points, sampling.num_images, sampling.num_controls, generator),
        num_neighbours=sampling.num_neighbours,
        num_triangles=sampling.num_triangles,
        generator=keyed_generator(seed, "diagnosis", "triangles"),
    )
    means = _beside_controls(features.mean(1), len(features), sampling.num_controls, generator)
    columns = _columns(found)
    columns["delta_rel_of_means"] = relative_hyperbolicity(straight_distances(means))
    numbers = {key: value.tolist() for key, value in columns.items()}
    return Measured(
        name,
        found.num_neighbours,
        data={key: values[0] for key, values in numbers.items()},
        controls={key: values[1:] for key, values in numbers.items()},
    )


def _beside_controls(
    points: Tensor, num_points: int, num_controls: int, generator: torch.Generator
) -> Tensor:
    """The first points and Gaussian clouds of the covariance of all, ``(1 + controls, n, d)``."""
    clouds = gaussian_control(points, num_points, num_clouds=num_controls, generator=generator)
    return torch.cat([points[None, :num_points], clouds])


def _columns(found: Diagnosis) -> dict[str, Tensor]:
    return {
        "delta_rel": found.delta_rel,
        "delta_curvature": found.delta_curvature,
        "triangle_deviation": found.triangles.deviation,
        "triangles_negative": found.triangles.negative,
        "triangle_curvature": found.triangles.curvature,
        "hyperbolic_curvature": found.hyperbolic.magnitude,
        "spherical_curvature": found.spherical.magnitude,
        **{f"{name}_residual": value for name, value in found.residuals.items()},
    }


def average(rows: list[Measured], name: str) -> Measured:
    """Average several measurements, controls one by one; the largest number of neighbours."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    data = {key: mean([row.data[key] for row in rows]) for key in rows[0].data}
    controls = {
        key: [mean(list(same)) for same in zip(*(row.controls[key] for row in rows), strict=True)]
        for key in rows[0].controls
    }
    return Measured(name, max(row.num_neighbours for row in rows), data, controls)
