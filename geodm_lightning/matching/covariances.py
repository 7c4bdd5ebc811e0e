r"""Distances of covariances, in a product of spaces at little more than the price of flat space.

A covariance needs linear coordinates: a space is seen from a point :math:`p` of it. There a
feature :math:`u = \mu + x`, :math:`x` its deviation from the mean of its set, becomes

.. math:: y = \alpha u + \beta p = \alpha\,x + \alpha\,(\mu - p) + (\alpha + \beta)\,p

with scalars of its own (:meth:`geodm_lightning.geometry.manifold.Manifold.view`). So the Gram
matrix of seen features is that of deviations, the same for all factors with the same
coordinates, but for scalars and the inner products with three vectors. Nothing large cancels:
in flat space the last two terms are constant and leave no trace in a covariance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.geometry.heads import each_once
from geodm_lightning.geometry.manifold import Manifold, at_least_float32, non_negative
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.types import InputError


class MomentCosts(NamedTuple):
    """How far apart two sets are in their first two moments.

    Attributes:
        means: Weighted squared distances of the centroids, shape ``(...,)``.
        covariances: Weighted squared distances of the covariances seen from the first set's
            centroid, shape ``(...,)``, in the fourth power of the unit of the features.
    """

    means: Tensor
    covariances: Tensor


def moment_costs(real: Tensor, synthetic: Tensor, geometry: ProductManifold) -> MomentCosts:
    """Compare the moments of two sets, by heads and centroids that are computed once.

    Args:
        real: Features ``(..., n, d)``, n at least 2.
        synthetic: Features ``(..., m, d)``, m at least 2.
        geometry: Product manifold the features are points of.

    Returns:
        Costs of shape ``(...,)``; that of the means is the geometry's ``centroid_cost``.

    Raises:
        InputError: If a set has fewer than two points.

    Example:
        Equal means, and variances 2 and 8 along the one axis there is.

        >>> from geodm_lightning.geometry import build_product
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> costs = moment_costs(x, 2 * x, build_product(["euclidean"], curvature=1.0))
        >>> costs.means.item(), costs.covariances.item()
        (0.0, 36.0)
    """
    for side in (real, synthetic):
        if side.shape[-2] < 2:
            raise InputError(
                f"a covariance needs at least 2 samples per class, got {side.shape[-2]}; raise "
                "ipc or factor, or match means alone"
            )
    points, others = geometry.coordinates(real), geometry.coordinates(synthetic)
    factors = [factor for _, factor, _ in geometry.active_factors()]
    with torch.autocast(device_type=real.device.type, enabled=False):
        origins, images = (
            [factor.centroid(u) for factor, u in zip(factors, side, strict=True)]
            for side in (points, others)
        )
        sets = each_once(_Deviations.of, points, others)
        gaps = [_seen_gap(*seen) for seen in zip(sets, factors, origins, strict=True)]
        means = geometry.squared_distance(origins, images)
        return MomentCosts(means, geometry.weighted_sum(gaps))


def outer_gap(a: Tensor, b: Tensor) -> Tensor:
    r"""Squared Frobenius distance :math:`\|a^T a - b^T b\|_F^2` without a d×d matrix.

    It is :math:`\|a a^T\|^2 - 2 \|a b^T\|^2 + \|b b^T\|^2`. What rounding leaves below
    zero where the two are equal is lifted to zero; the gradient stays.

    Args:
        a: Vectors ``(..., n, d)``.
        b: Vectors ``(..., m, d)``.

    Returns:
        Values of shape ``(...,)``, exact to about 1e-7 of the squared norms in float32.
    """
    return _gap_of_products(a @ a.mT, a @ b.mT, b @ b.mT)


def _gap_of_products(own: Tensor, across: Tensor, other: Tensor) -> Tensor:
    """The same from inner products: those in the first set, between the two, in the second."""
    own, across, other = (product.square().sum((-2, -1)) for product in (own, across, other))
    return non_negative(own - 2 * across + other)


class _Deviations(NamedTuple):
    """Two sets of points as all factors with the same coordinates need them.

    Attributes:
        means: Their means, shape ``(..., d)`` each.
        radii: The radii of their points, ``(..., n)`` and ``(..., m)``.
        deviations: Points less the mean of their set, ``(..., n, d)`` and ``(..., m, d)``.
        products: Inner products of the deviations of the first set, of the second with the
            first, ``(..., m, n)``, and of the second. A set that learns nothing stands on the
            right, where the slope is a product with it as it lies in memory.
    """

    means: tuple[Tensor, Tensor]
    radii: tuple[Tensor, Tensor]
    deviations: tuple[Tensor, Tensor]
    products: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, u: Tensor, v: Tensor) -> _Deviations:
        """Take sets ``(..., n, d)`` and ``(..., m, d)`` apart."""
        u, v = at_least_float32(u), at_least_float32(v)
        means = u.mean(-2), v.mean(-2)
        x, y = (points - mean[..., None, :] for points, mean in zip((u, v), means, strict=True))
        radii = torch.linalg.vector_norm(u, dim=-1), torch.linalg.vector_norm(v, dim=-1)
        return cls(means, radii, (x, y), (x @ x.mT, y @ x.mT, y @ y.mT))


class _Seen(NamedTuple):
    """A set as seen from a point, each point over the root of the set's degrees of freedom.

    Attributes:
        alpha: How much of its deviation a seen point has, shape ``(..., n)``.
        along: What it has of the basis besides, less the mean of the set, ``(..., n, 3)``.
        inner: Inner products of its share of the deviation with the basis, less their mean.
    """

    alpha: Tensor
    along: Tensor
    inner: Tensor


def _seen_gap(sets: _Deviations, factor: Manifold, origin: Tensor) -> Tensor:
    """Squared distance of the covariances of two sets as ``origin (..., d)`` sees them."""
    basis = torch.stack([*(mean - origin for mean in sets.means), origin], dim=-2)
    metric = basis @ basis.mT
    origin_radius = torch.linalg.vector_norm(origin, dim=-1, keepdim=True)
    seen = []
    for i, (radius, deviations) in enumerate(zip(sets.radii, sets.deviations, strict=True)):
        inner = (basis @ deviations.mT).mT
        with_origin = inner[..., 2] + (metric[..., i, 2] + metric[..., 2, 2])[..., None]
        scalars = factor.view(radius, origin_radius, with_origin)
        alpha, beta = (scalar / math.sqrt(radius.shape[-1] - 1) for scalar in scalars)
        columns = [alpha, torch.zeros_like(alpha)]
        along = torch.stack([columns[i], columns[1 - i], alpha + beta], dim=-1)
        seen.append(_Seen(alpha, _centred(along), _centred(alpha[..., None] * inner)))
    x, y = seen
    xx, yx, yy = sets.products
    return _gap_of_products(
        _seen_products(xx, x, x, metric),
        _seen_products(yx, y, x, metric),
        _seen_products(yy, y, y, metric),
    )


def _seen_products(plain: Tensor, x: _Seen, y: _Seen, metric: Tensor) -> Tensor:
    """Inner products of seen points less the means of their sets.

    Args:
        plain: Inner products of the deviations, shape ``(..., n, m)``.
        x: The first set, of n points.
        y: The second, of m.
        metric: Inner products of the basis, shape ``(..., 3, 3)``.

    Returns:
        Inner products of shape ``(..., n, m)``: those of the deviations, and a matrix of rank
        8 that holds the basis and takes out the means of rows and columns.
    """
    rows = x.alpha * (plain @ y.alpha[..., None])[..., 0] / y.alpha.shape[-1]
    columns = y.alpha * (x.alpha[..., None, :] @ plain)[..., 0, :] / x.alpha.shape[-1]
    excess = rows - rows.mean(-1, keepdim=True)
    ones = torch.ones_like(rows), torch.ones_like(columns)
    means = torch.stack([-excess, -ones[0]], -1), torch.stack([ones[1], columns], -1)
    left = torch.cat([x.inner + x.along @ metric, x.along, means[0]], dim=-1)
    right = torch.cat([y.along, y.inner, means[1]], dim=-1)
    return x.alpha[..., :, None] * plain * y.alpha[..., None, :] + left @ right.mT


def _centred(x: Tensor) -> Tensor:
    """Vectors ``(..., n, d)`` less their mean."""
    return x - x.mean(-2, keepdim=True)
