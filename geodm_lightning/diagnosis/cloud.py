"""What geometry a cloud of features has: the measures side by side, and a control.

The measures are those of the literature; putting them on neighbour-graph geodesics of
features of unit mean norm, and the control, are inferred.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.diagnosis.constant_curvature import (
    CurvatureFit,
    best_fit,
    flat_residual,
    hyperbolic_residual,
    spherical_residual,
)
from geodm_lightning.diagnosis.geodesics import (
    TriangleCurvature,
    graph_geodesics,
    triangle_curvature,
)
from geodm_lightning.diagnosis.hyperbolicity import (
    curvature_from_hyperbolicity,
    relative_hyperbolicity,
)
from geodm_lightning.geometry.curved import CURVATURE_RANGE
from geodm_lightning.types import InputError


class Diagnosis(NamedTuple):
    """Measures of clouds of points; tensors of shape ``(...,)``.

    Attributes:
        delta_rel: Relative Gromov hyperbolicity of the straight distances.
        delta_curvature: Curvature estimate of Khrulkov et al. from ``delta_rel``.
        triangles: Medians of triangles along the cloud.
        hyperbolic: Best hyperbolic fit of the geodesic distances.
        flat: Residual of the flat fit of the geodesic distances.
        spherical: Best spherical fit of the geodesic distances.
        num_neighbours: Neighbours each point was joined to.
    """

    delta_rel: Tensor
    delta_curvature: Tensor
    triangles: TriangleCurvature
    hyperbolic: CurvatureFit
    flat: Tensor
    spherical: CurvatureFit
    num_neighbours: int

    @property
    def residuals(self) -> dict[str, Tensor]:
        """Residual of each geometry by the name of its factor, ``(...,)``."""
        return {
            "euclidean": self.flat,
            "hyperbolic": self.hyperbolic.residual,
            "spherical": self.spherical.residual,
        }


def diagnose(
    features: Tensor,
    *,
    num_neighbours: int = 10,
    num_triangles: int = 2000,
    curvature_range: tuple[float, float] = CURVATURE_RANGE,
    generator: torch.Generator,
) -> Diagnosis:
    """Measure the geometry of clouds of points.

    Args:
        features: Points ``(..., n, d)``, of mean norm 1 where curvatures shall have the unit of
            the factors.
        num_neighbours: See :func:`~geodm_lightning.diagnosis.geodesics.graph_geodesics`.
        num_triangles: Triangles drawn.
        curvature_range: Magnitudes tried for the curved fits.
        generator: Generator on the CPU that draws the triangles.

    Returns:
        The measures, in float64.

    Raises:
        InputError: If there are fewer than 4 points or a number is not finite.
    """
    if features.dim() < 2 or features.shape[-2] < 4:
        raise InputError(f"features must be (..., n, d) of n >= 4, got {tuple(features.shape)}")
    straight = straight_distances(features)
    paths = graph_geodesics(straight, num_neighbours=num_neighbours)
    delta_rel = relative_hyperbolicity(straight)
    geodesics = paths.distances
    return Diagnosis(
        delta_rel=delta_rel,
        delta_curvature=curvature_from_hyperbolicity(delta_rel),
        triangles=triangle_curvature(geodesics, num_triangles=num_triangles, generator=generator),
        hyperbolic=best_fit(geodesics, hyperbolic_residual, curvature_range=curvature_range),
        flat=flat_residual(geodesics),
        spherical=best_fit(geodesics, spherical_residual, curvature_range=curvature_range),
        num_neighbours=paths.num_neighbours,
    )


def straight_distances(features: Tensor) -> Tensor:
    """Euclidean distances ``(..., n, n)`` of points ``(..., n, d)``, in float64."""
    points = features.double()
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def gaussian_control(
    features: Tensor, num_points: int, *, num_clouds: int = 1, generator: torch.Generator
) -> Tensor:
    """Draw Gaussian clouds of the mean and covariance of some points.

    A measure that comes out alike on the control speaks of the covariance, of the number of
    points or of the neighbour graph, and not of curvature.

    Args:
        features: Points ``(N, d)``; many more than ``num_points``, or the draw lies in the
            span of too few.
        num_points: Points of a cloud.
        num_clouds: Clouds.
        generator: Generator on the CPU.

    Returns:
        Clouds of shape ``(num_clouds, num_points, d)``.

    Raises:
        InputError: If there are fewer than 2 points.
    """
    if features.dim() != 2 or len(features) < 2:
        raise InputError(f"a covariance needs points (N, d), N >= 2, got {tuple(features.shape)}")
    mean = features.mean(0)
    shape = (num_clouds, num_points, len(features))
    mixing = torch.randn(shape, generator=generator, dtype=torch.float32).to(features)
    return mean + mixing @ (features - mean) / (len(features) - 1) ** 0.5
