r"""How well distances are those of points in a space of constant curvature.

Distances on a sphere are angles, so :math:`\cos(\sqrt c D)` is a Gram matrix; in hyperbolic
space :math:`\cosh(\sqrt c D)` is one of the Lorentz form, with a single positive eigenvalue;
in flat space the doubly centred :math:`-D^2/2` is one. Cutting a spectrum down to its allowed
signs places the points, and the error of the distances between the placed points is the
residual, so one number compares the three.

References:
    Wilson et al., "Spherical and hyperbolic embeddings of data", 2014; Torgerson,
    "Multidimensional scaling", 1952. That the residual is read off the placed points is
    inferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.diagnosis.hyperbolicity import check_distances
from geodm_lightning.geometry.curved import CURVATURE_RANGE

NUM_CURVATURES = 41  # curvatures tried, each 10 % above the last
_EXACT = "donot_use_mm_for_euclid_dist"  # differences before squares


class CurvatureFit(NamedTuple):
    """The best of the curvatures tried for one geometry.

    Attributes:
        magnitude: ``(...,)`` curvature without its sign, in 1/length^2.
        residual: ``(...,)`` relative error of the distances it leaves.
    """

    magnitude: Tensor
    residual: Tensor


def curvature_grid(
    curvature_range: tuple[float, float] = CURVATURE_RANGE, *, num: int = NUM_CURVATURES
) -> Tensor:
    """Return ``num`` magnitudes from end to end of a range, evenly spaced in their logarithm."""
    low, high = curvature_range
    return torch.linspace(math.log(low), math.log(high), num, dtype=torch.float64).exp()


def stress(placed: Tensor, distances: Tensor) -> Tensor:
    """Relative error ``|placed - distances| / |distances|`` of matrices ``(..., n, n)``."""
    size = torch.linalg.matrix_norm(distances)
    off = torch.linalg.matrix_norm(placed - distances)
    return torch.where(size > 0, off / torch.where(size > 0, size, 1), 0)


def flat_residual(distances: Tensor) -> Tensor:
    """Error of the best placement by classical scaling in flat space.

    Args:
        distances: Distances ``(..., n, n)``.

    Returns:
        Residuals of shape ``(...,)``, 0 for points of a flat space.

    Raises:
        InputError: If these are not distances.
    """
    distances = check_distances(distances).double()
    squared = distances.square()
    rows = squared - squared.mean(-1, keepdim=True)
    gram = -(rows - rows.mean(-2, keepdim=True)) / 2
    points = _place(gram)
    return stress(torch.cdist(points, points, compute_mode=_EXACT), distances)


def spherical_residual(distances: Tensor, magnitude: Tensor) -> Tensor:
    """Error of the placement on a sphere by the spectrum of ``cos(sqrt(c) D)``.

    Distances beyond half of a great circle, which no sphere of this curvature has, count as
    half of one.

    Args:
        distances: Distances ``(..., n, n)``.
        magnitude: Curvature, of a shape that broadcasts against ``(...,)``.

    Returns:
        Residuals of the broadcast shape, 0 for points of a sphere of this curvature.

    Raises:
        InputError: If these are not distances.
    """
    distances = check_distances(distances).double()
    root = magnitude.double().sqrt()[..., None, None]
    points = _place((root * distances).clamp(max=math.pi).cos())
    points = points / torch.linalg.vector_norm(points, dim=-1, keepdim=True).clamp(min=1e-12)
    chords = torch.cdist(points, points, compute_mode=_EXACT)
    return stress(2 * (chords / 2).clamp(max=1).asin() / root, distances)


def hyperbolic_residual(distances: Tensor, magnitude: Tensor) -> Tensor:
    """Error of the placement in hyperbolic space by the spectrum of ``-cosh(sqrt(c) D)``.

    Args:
        distances: Distances ``(..., n, n)``.
        magnitude: Curvature without its sign, of a shape that broadcasts against ``(...,)``.

    Returns:
        Residuals of the broadcast shape, 0 for points of a hyperbolic space of this curvature.

    Raises:
        InputError: If these are not distances.
    """
    distances = check_distances(distances).double()
    root = magnitude.double().sqrt()[..., None, None]
    points = _place(-(root * distances).cosh())  # the one negative eigenvalue is time
    time = (1 + points.square().sum(-1)).sqrt()
    chords = torch.cdist(points, points, compute_mode=_EXACT).square()
    lorentz = chords - (time[..., :, None] - time[..., None, :]).square()
    return stress(2 * (lorentz.clamp(min=0).sqrt() / 2).asinh() / root, distances)


def best_fit(
    distances: Tensor,
    residual: Callable[[Tensor, Tensor], Tensor],
    *,
    curvature_range: tuple[float, float] = CURVATURE_RANGE,
) -> CurvatureFit:
    """Try curvatures from end to end of a range and keep the one that fits best.

    Args:
        distances: Distances ``(..., n, n)``.
        residual: :func:`spherical_residual` or :func:`hyperbolic_residual`.
        curvature_range: Smallest and largest magnitude.

    Returns:
        The best magnitude, to within 10 % on the default range, and its residual.

    Raises:
        InputError: If these are not distances.
    """
    grid = curvature_grid(curvature_range).to(distances.device)
    residuals = residual(distances[..., None, :, :], grid)
    best = residuals.min(-1)
    return CurvatureFit(grid[best.indices], best.values)


def _place(gram: Tensor) -> Tensor:
    """Coordinates ``(..., n, n)`` whose inner products are the positive part of ``gram``."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]
