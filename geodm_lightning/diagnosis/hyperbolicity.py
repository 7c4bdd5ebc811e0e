r"""How far a finite metric space is from a tree: Gromov's four-point constant.

Of the three ways to pair four points, a tree makes the two largest sums of distances equal.
Half of their difference, at its worst over all quadruples, is :math:`\delta`: 0 on a tree,
at most :math:`\ln 2/\sqrt c` in a hyperbolic space of curvature :math:`-c`, without bound in
flat space.

References:
    Gromov, "Hyperbolic groups", 1987; Fournier, Ismail and Vigneron, "Computing the Gromov
    hyperbolicity of a discrete metric space", 2015; Khrulkov et al., "Hyperbolic image
    embeddings", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.geometry.manifold import at_least_float32
from geodm_lightning.types import InputError

POINCARE_DELTA_REL = 0.144  # relative delta of the unit Poincaré ball as represented, Khrulkov


def check_distances(distances: Tensor) -> Tensor:
    """Return distance matrices ``(..., n, n)``, half precisions raised to float32.

    Raises:
        InputError: If they are not square and of at least one point, or not finite,
            non-negative and symmetric with a zero diagonal.
    """
    if distances.dim() < 2 or distances.shape[-1] != distances.shape[-2] or not distances.numel():
        raise InputError(f"distances must be (..., n, n), got shape {tuple(distances.shape)}")
    distances = at_least_float32(distances)
    if not (distances.isfinite().all() and (distances >= 0).all()):
        raise InputError("distances must be finite and non-negative; connect or clean the points")
    largest = float(distances.max())
    if float((distances - distances.mT).abs().max()) > 1e-5 * largest:
        raise InputError("distances must be symmetric; pass (D + D.mT) / 2 if they nearly are")
    if float(distances.diagonal(dim1=-2, dim2=-1).max()) > 1e-2 * largest:  # roots of roundings
        raise InputError("distances must be zero on the diagonal")
    return distances


def gromov_hyperbolicity(distances: Tensor, *, base_points: Tensor | None = None) -> Tensor:
    r"""Four-point constant of finite metric spaces.

    With the Gromov product :math:`(x|y)_w = (d(x,w) + d(y,w) - d(x,y))/2`,

    .. math:: \delta = \max_{w,x,y}\, \bigl[\max_z \min((x|z)_w, (z|y)_w) - (x|y)_w\bigr],

    a max-min matrix product for every base point ``w``. A quadruple is looked at from the
    first of its base points only, so all base points cost ``n^4/4`` operations; the memory is
    a few times that of the distances.

    Args:
        distances: Distance matrices, ``(..., n, n)``.
        base_points: Indices ``(b,)`` of the base points; all, which is exact, when None. Any
            one gives at least half of the exact value and never more than it.

    Returns:
        Constants of shape ``(...,)``, in the unit of the distances.

    Raises:
        InputError: If these are not distances, or a base point is not a point.

    Example:
        Four corners of a square walked along its sides are 1 from a tree.

        >>> square = torch.tensor([[0., 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
        >>> gromov_hyperbolicity(square)
        tensor(1.)
    """
    distances = check_distances(distances)
    num_points = distances.shape[-1]
    if base_points is None:
        base_points = torch.arange(num_points, device=distances.device)
    elif not len(base_points) or int(base_points.min()) < 0 or int(base_points.max()) >= num_points:
        raise InputError(
            f"base_points must be indices below {num_points}, got {base_points.tolist()}"
        )
    rest = torch.ones(num_points, dtype=torch.bool, device=distances.device)
    largest = torch.zeros_like(distances[..., 0, 0])
    for base in base_points.tolist():
        others = rest.nonzero().flatten()
        largest = torch.maximum(largest, _seen_from(distances, base, others))
        rest[base] = False
    return largest


def _seen_from(distances: Tensor, base: int, others: Tensor) -> Tensor:
    """Largest violation among ``others`` and one base point, shape ``(...,)``."""
    to_base = distances[..., base, others]
    between = distances[..., others[:, None], others]
    products = (to_base[..., :, None] + to_base[..., None, :] - between) / 2
    widest = products.clone()
    for column in products.unbind(-1):  # one z at a time: the work stays in the cache
        through = torch.minimum(column[..., :, None], column[..., None, :])
        torch.maximum(widest, through, out=widest)
    return (widest - products).amax((-2, -1))


def relative_hyperbolicity(distances: Tensor, *, base_points: Tensor | None = None) -> Tensor:
    r"""Scale-free hyperbolicity :math:`2\delta/\mathrm{diameter}`, between 0 and 1.

    It is small for trees, and also wherever distances concentrate, as between independent
    draws in many dimensions: read it beside a control of the same covariance.

    Args:
        distances: Distance matrices, ``(..., n, n)``.
        base_points: See :func:`gromov_hyperbolicity`.

    Returns:
        Values of shape ``(...,)``; 0 where all points coincide.

    Raises:
        InputError: As :func:`gromov_hyperbolicity`.
    """
    diameter = distances.amax((-2, -1))
    delta = gromov_hyperbolicity(distances, base_points=base_points)
    return torch.where(diameter > 0, 2 * delta / torch.where(diameter > 0, diameter, 1), 0)


def curvature_from_hyperbolicity(relative: Tensor) -> Tensor:
    r"""Curvature estimate :math:`(0.144/\delta_{rel})^2` of Khrulkov et al.

    It is the ``c`` of a Poincaré ball of radius :math:`1/\sqrt c` that makes the ball, as
    floating-point numbers represent it, as hyperbolic as the data. Its unit is that ball and
    not the feature norm, so it ranks data sets; it is no starting value for a factor.

    Args:
        relative: Relative hyperbolicity, any shape.

    Returns:
        Magnitudes of the same shape, infinite for a tree.
    """
    return (POINCARE_DELTA_REL / relative).square()
