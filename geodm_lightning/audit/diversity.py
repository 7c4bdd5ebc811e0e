"""How different the images of one class are from each other.

References:
    Friedman and Dieng, "The Vendi score: a diversity evaluation metric for machine learning",
    2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.audit.coverage import squared_distances
from geodm_lightning.types import InputError


def mean_distance(points: Tensor) -> float | None:
    """Mean distance of two different points.

    Args:
        points: ``(m, d)``.

    Returns:
        The mean over all pairs, None where there is no pair.

    Raises:
        InputError: If these are no points, or not finite.

    Example:
        >>> mean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        5.0
    """
    points = _checked(points)
    count = len(points)
    if count < 2:
        return None
    distances = squared_distances(points, points).sqrt().fill_diagonal_(0)
    return float(distances.sum()) / (count * (count - 1))


def vendi_score(points: Tensor) -> float:
    r"""Effective number of different points, from 1 to ``m``.

    .. math:: \exp\bigl(-\sum_i \lambda_i \ln \lambda_i\bigr)

    over the eigenvalues of the matrix of cosine similarities divided by ``m``. It is 1 where all
    points lie in one direction and ``m`` where they are orthogonal. Features that are never
    negative, as after a rectifier, are alike in direction: compare values in the same features.

    Args:
        points: ``(m, d)``; a point at the origin counts as different from all others.

    Raises:
        InputError: If these are no points, or not finite.

    Example:
        >>> round(vendi_score(torch.eye(4)), 3), round(vendi_score(torch.ones(4, 2)), 3)
        (4.0, 1.0)
    """
    points = _checked(points).double()
    lengths = points.norm(dim=1, keepdim=True)
    directions = points / torch.where(lengths > 0, lengths, 1)
    similarity = directions @ directions.mT
    similarity.fill_diagonal_(1.0)
    shares = torch.linalg.eigvalsh(similarity / len(points)).clamp(min=0)
    return float(torch.special.entr(shares).sum().exp())


def _checked(points: Tensor) -> Tensor:
    if points.dim() != 2 or not len(points) or not points.isfinite().all():
        raise InputError(f"points must be (m, d) and finite, got shape {tuple(points.shape)}")
    return points
