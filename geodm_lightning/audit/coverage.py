r"""How much of a cloud of real points a small cloud lies in, and how much of it it reaches.

Every real point ``x`` carries a ball that reaches to its ``k``-th nearest real neighbour. Of ``n``
real and ``m`` other points,

.. math::
    \mathrm{precision} &= \tfrac1m \lvert\{ y : y \text{ in some ball} \}\rvert &
    \mathrm{density} &= \tfrac1{km} \sum_y \lvert\{ x : y \in B(x) \}\rvert \\
    \mathrm{coverage} &= \tfrac1n \lvert\{ x : \text{some } y \in B(x) \}\rvert &
    \mathrm{recall} &= \tfrac1n \lvert\{ x : x \text{ in some ball of the } y \}\rvert .

A few points cannot cover thousands: for as many independent draws of the real distribution the
expected density is 1 and the expected coverage :func:`expected_coverage`. Read the numbers beside
those. Balls are closed, and distances are computed in double precision, so that a neighbour on
the rim is in.

References:
    Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020
    (density, coverage); Kynkäänniemi et al., "Improved precision and recall metric for assessing
    generative models", 2019.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.types import InputError

BLOCK = 1024  # points compared with all others at once; decides memory only
RIM = 1 + 1e-9  # of a squared radius: more than double precision rounds


class Coverage(NamedTuple):
    """How a cloud lies in a real one; fractions but for the density.

    Attributes:
        precision: Share of its points that lie among real ones.
        recall: Share of real points that lie among its own; None for a single point.
        density: How many real balls its points lie in, over ``k``; about 1 for real draws.
        coverage: Share of real balls that hold one of its points.
    """

    precision: float
    recall: float | None
    density: float
    coverage: float


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances ``(n, m)`` of points ``(n, d)`` and ``(m, d)``, float64."""
    x, y = x.double(), y.double()
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(squares, x, y.mT, alpha=-2).clamp_(min=0)


def squared_radii(points: Tensor, *, neighbours: int) -> Tensor:
    """Squared distance of every point to its ``k``-th nearest other one.

    Args:
        points: ``(n, d)``.
        neighbours: ``k``, at least 1 and below ``n``.

    Returns:
        ``(n,)`` float64.

    Raises:
        InputError: If there are not so many other points.
    """
    if not 1 <= neighbours < len(points):
        raise InputError(
            f"neighbours must be from 1 to {len(points) - 1} among {len(points)} points, got "
            f"{neighbours}; set audit.neighbours lower"
        )
    radii = []
    for start in range(0, len(points), BLOCK):
        distances = squared_distances(points[start : start + BLOCK], points)
        rows = torch.arange(len(distances), device=points.device)
        distances[rows, rows + start] = -1.0  # itself comes first, before its duplicates
        radii.append(distances.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(radii)


def measure_coverage(
    real: Tensor, points: Tensor, *, neighbours: int, radii: Tensor | None = None
) -> Coverage:
    """Compare a cloud with a real one.

    Args:
        real: ``(n, d)`` real points.
        points: ``(m, d)`` points of the cloud.
        neighbours: ``k``; among the cloud's own points at most ``m - 1``.
        radii: ``(n,)`` of :func:`squared_radii` of ``real`` where they are known already.

    Raises:
        InputError: If there are too few real points, none in the cloud, the widths differ or a
            coordinate is not finite.
    """
    if points.dim() != 2 or real.dim() != 2 or points.shape[1] != real.shape[1] or not len(points):
        raise InputError(
            f"clouds must be (n, d) and (m, d), got {tuple(real.shape)} and {tuple(points.shape)}"
        )
    if not (real.isfinite().all() and points.isfinite().all()):
        raise InputError("features must be finite; look at the images and the network")
    if radii is None:
        radii = squared_radii(real, neighbours=neighbours)
    own = min(neighbours, len(points) - 1)
    own_radii = squared_radii(points, neighbours=own) * RIM if own else None
    held = torch.zeros(len(points), dtype=torch.int64, device=real.device)
    covered, reached = 0, 0
    for start in range(0, len(real), BLOCK):
        distances = squared_distances(real[start : start + BLOCK], points)
        inside = distances <= radii[start : start + BLOCK, None] * RIM
        held += inside.sum(0)
        covered += int(inside.any(1).sum())
        if own_radii is not None:
            reached += int((distances <= own_radii).any(1).sum())
    return Coverage(
        precision=float((held > 0).double().mean()),
        recall=reached / len(real) if own else None,
        density=float(held.sum()) / (neighbours * len(points)),
        coverage=covered / len(real),
    )


def expected_coverage(num_real: int, num_points: int, *, neighbours: int) -> float:
    r"""Coverage to be expected of independent draws from the distribution of the real points.

    None of ``m`` draws lies in the ball of a real point if its ``k`` nearest of the other
    ``n - 1 + m`` points are all real:

    .. math:: 1 - \prod_{i=1}^{k} \frac{n - i}{n + m - i} .

    Example:
        >>> round(expected_coverage(5000, 10, neighbours=5), 4)
        0.0099
    """
    missed = ((num_real - i) / (num_real + num_points - i) for i in range(1, neighbours + 1))
    return 1 - math.prod(missed)
