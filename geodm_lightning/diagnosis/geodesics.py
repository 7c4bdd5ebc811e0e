r"""Distances along a cloud of points, and the sign of its curvature from triangles.

Straight distances between features are those of a flat space, whatever the cloud looks like.
What a cloud says of its own geometry lies in the lengths of paths that stay inside it: the
shortest paths of its neighbour graph.

References:
    Tenenbaum, de Silva and Langford, "A global geometric framework for nonlinear
    dimensionality reduction", 2000; Gu et al., "Learning mixed-curvature representations in
    product spaces", 2019.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.diagnosis.hyperbolicity import check_distances
from geodm_lightning.types import InputError

_ON_PATH = 1e-5  # relative detour below which a point lies on a shortest path
_CURVATURE_BOUND = 25.0  # largest magnitude looked for, in 1/length^2
_BISECTIONS = 50


class Geodesics(NamedTuple):
    """Shortest paths inside clouds of points.

    Attributes:
        distances: ``(..., n, n)``, never shorter than the straight ones.
        num_neighbours: Neighbours each point was joined to.
    """

    distances: Tensor
    num_neighbours: int


class TriangleCurvature(NamedTuple):
    """What the medians of geodesic triangles tell of curvature.

    Attributes:
        deviation: ``(...,)`` mean of Gu's ``xi``: how much longer medians are than flat ones.
        negative: ``(...,)`` share of triangles whose median is shorter than a flat one.
        curvature: ``(...,)`` signed curvature of the space whose medians are right on average.
    """

    deviation: Tensor
    negative: Tensor
    curvature: Tensor


def graph_geodesics(distances: Tensor, *, num_neighbours: int = 10) -> Geodesics:
    """Walk from point to point over nearest neighbours.

    Args:
        distances: Straight distances, ``(..., n, n)``.
        num_neighbours: Nearest neighbours each point is joined to, in either direction;
            doubled until every cloud of the batch is connected.

    Returns:
        Distances of shape ``(..., n, n)`` and the number of neighbours they took.

    Raises:
        InputError: If these are not distances, or the number is not positive.
    """
    distances = check_distances(distances)
    if num_neighbours < 1:
        raise InputError(f"num_neighbours must be at least 1, got {num_neighbours}")
    limit = max(distances.shape[-1] - 1, 1)
    num_neighbours = min(num_neighbours, limit)
    while not (paths := _shortest_paths(_joined(distances, num_neighbours))).isfinite().all():
        num_neighbours = min(2 * num_neighbours, limit)
    return Geodesics(paths, num_neighbours)


def _joined(distances: Tensor, num_neighbours: int) -> Tensor:
    """Keep the edges to the nearest neighbours, the others infinite."""
    nearest = distances.topk(min(num_neighbours + 1, distances.shape[-1]), largest=False)
    edges = torch.full_like(distances, math.inf).scatter(-1, nearest.indices, nearest.values)
    edges = torch.minimum(edges, edges.mT)
    return edges.diagonal_scatter(torch.zeros_like(edges[..., 0]), dim1=-2, dim2=-1)


def _shortest_paths(lengths: Tensor) -> Tensor:
    """All shortest paths by Floyd and Warshall's rule, ``(..., n, n)``."""
    for via in range(lengths.shape[-1]):
        detour = lengths[..., :, via, None] + lengths[..., None, via, :]
        lengths = torch.minimum(lengths, detour)
    return lengths


def triangle_curvature(
    geodesics: Tensor, *, num_triangles: int = 2000, generator: torch.Generator
) -> TriangleCurvature:
    r"""Compare medians of geodesic triangles with those of model spaces.

    For a triangle ``a, b, c`` and the point ``m`` a share ``t`` of the way along the path from
    ``b`` to ``c``, Gu et al.'s deviation is

    .. math:: \xi = \frac{d(a,m)^2 + t(1-t)\, d(b,c)^2 - (1-t)\, d(a,b)^2 - t\, d(a,c)^2}
                         {2\, d(a,m)},

    0 in flat space by Stewart's theorem, negative where curvature is negative. The paper has
    ``t = 1/2``; other shares, which a finite cloud needs, and the estimate of curvature (the
    one at which a model space predicts the medians right on average) are inferred.

    Args:
        geodesics: Distances with points along the paths, ``(..., n, n)``.
        num_triangles: Triangles drawn; one without an inner point on its path is left out.
        generator: Generator on the CPU; all clouds of a batch share its draw.

    Returns:
        Deviations, shares and curvatures of shape ``(...,)``, zeros where no triangle is left.

    Raises:
        InputError: If these are not distances, or of fewer than 4 points.
    """
    geodesics = check_distances(geodesics).double()
    num_points = geodesics.shape[-1]
    if num_points < 4:
        raise InputError(f"triangles with a median need at least 4 points, got {num_points}")
    draws = torch.rand(num_triangles, num_points, generator=generator)
    a, b, c = draws.topk(3).indices.T.to(geodesics.device)
    m, inside = _inner_point(geodesics, b, c)
    t = _pick(geodesics, b, m) / geodesics[..., b, c].clamp(min=torch.finfo(torch.float64).tiny)
    inside = inside & ((t > 0.25) & (t < 0.75)) & (m != a)
    sides = geodesics[..., a, b], geodesics[..., a, c], geodesics[..., b, c], t
    median = _pick(geodesics, a, m)
    flat = _flat_median_squared(*sides)
    xi = torch.where(inside, (median.square() - flat) / (2 * median).clamp(min=1e-12), 0)
    num_inside = inside.sum(-1).clamp(min=1)
    shorter = inside & (xi < -1e-6 * median)
    return TriangleCurvature(
        deviation=xi.sum(-1) / num_inside,
        negative=shorter.sum(-1) / num_inside,
        curvature=_matching_curvature(median, sides, inside),
    )


def _inner_point(geodesics: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Point nearest to the middle of each shortest path, and whether there is one."""
    to_b, to_c, whole = geodesics[..., b, :], geodesics[..., c, :], geodesics[..., b, c]
    on_path = to_b + to_c <= whole[..., None] * (1 + _ON_PATH)
    uneven = torch.where(on_path, (to_b - to_c).abs(), math.inf)  # ends are uneven by all of it
    value, index = uneven.min(-1)
    return index, value < whole * (1 - _ON_PATH)


def _pick(geodesics: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Distances ``(..., T)`` from points ``rows (T,)`` to points ``columns (..., T)``."""
    return geodesics[..., rows, :].gather(-1, columns[..., None])[..., 0]


def _flat_median_squared(ab: Tensor, ac: Tensor, bc: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * ab.square() + t * ac.square() - t * (1 - t) * bc.square()


def _median(sides: tuple[Tensor, Tensor, Tensor, Tensor], curvature: Tensor) -> Tensor:
    """Median of triangles in the space of signed ``curvature (..., 1)``: Stewart's theorem."""
    ab, ac, bc, t = sides
    root = curvature.abs().clamp(min=1e-6).sqrt()
    part, rest, whole = root * t * bc, root * (1 - t) * bc, root * bc
    round_ = (rest.sin() * (root * ab).cos() + part.sin() * (root * ac).cos()) / whole.sin()
    thin = (rest.sinh() * (root * ab).cosh() + part.sinh() * (root * ac).cosh()) / whole.sinh()
    flat = _flat_median_squared(*sides).clamp(min=0).sqrt()
    curved = torch.where(curvature > 0, round_.clamp(-1, 1).acos(), thin.clamp(min=1).acosh())
    return torch.where(curvature.abs() < 1e-6, flat, curved / root)


def _matching_curvature(
    median: Tensor, sides: tuple[Tensor, Tensor, Tensor, Tensor], inside: Tensor
) -> Tensor:
    """Bisect for the curvature at which the predicted medians are right on average.

    Medians lengthen with curvature; a sphere on which some triangle no longer fits is too small.
    """
    perimeter = torch.where(inside, sides[0] + sides[1] + sides[2], 0).amax(-1, keepdim=True)
    high = (2 * math.pi / perimeter.clamp(min=1e-6)).square() * (1 - 1e-6)
    high = high.clamp(max=_CURVATURE_BOUND)
    low = torch.full_like(high, -_CURVATURE_BOUND)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        excess = torch.where(inside, median - _median(sides, middle), 0).sum(-1, keepdim=True)
        low, high = torch.where(excess > 0, middle, low), torch.where(excess > 0, high, middle)
    return torch.where(inside.any(-1), ((low + high) / 2)[..., 0], 0)
