"""Which real images lie nearest to an image, and whether it is one of them.

Real images pass by block after block; of each block only the nearest few are kept, so memory
does not grow with them. Distances are compared in double precision, and those that are
kept are computed again from the differences: a copy lies at exactly 0.

How near is near? A generated image is compared with what is usual among real images: the median
distance from a real image to its nearest other one. The distance to the nearest over that to
the second nearest tells the same without a unit: it is near 1 for an image among many, and small
where one real image stands out (the ratio test of Lowe).

References:
    Lowe, "Distinctive image features from scale-invariant keypoints", 2004; Carlini et al.,
    "Extracting training data from diffusion models", 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.audit.coverage import squared_distances
from geodm_lightning.types import InputError

BLOCK = 512  # queries, and points, compared at once; decides memory only


class NearestReal:
    """The nearest of all points that passed by, for every query.

    Args:
        queries: ``(n, d)`` points whose neighbours are wanted.
        num: Neighbours to keep.
        excluded: ``(n,)`` index of a point that is not to be a neighbour of the query, such as
            the query itself; -1 for none.

    Attributes:
        distances: ``(n, num)`` float64, ascending; infinite where too few points passed by.
        indices: ``(n, num)`` int64 indices of the neighbours; -1 likewise.

    Raises:
        InputError: If there is nothing to look for, or a query is not finite.
    """

    def __init__(self, queries: Tensor, *, num: int, excluded: Tensor | None = None) -> None:
        if num < 1 or queries.dim() != 2 or not queries.numel():
            raise InputError(f"no neighbours: {num} of queries {tuple(queries.shape)}")
        if not queries.isfinite().all():
            raise InputError("images or features must be finite to have neighbours")
        shape, device = (len(queries), num), queries.device
        self._queries = queries
        self._excluded = excluded
        self.distances = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.indices = torch.full(shape, -1, dtype=torch.int64, device=device)

    def update(self, points: Tensor, indices: Tensor) -> None:
        """Let points pass by.

        Args:
            points: ``(m, d)``.
            indices: ``(m,)`` their int64 indices, each of which comes once.
        """
        for some, names in zip(points.split(BLOCK), indices.split(BLOCK), strict=True):
            for start in range(0, len(self._queries), BLOCK):
                self._update(slice(start, start + BLOCK), some, names)

    def _update(self, rows: slice, points: Tensor, names: Tensor) -> None:
        queries, num = self._queries[rows], self.distances.shape[1]
        squares = squared_distances(queries, points)
        if self._excluded is not None:
            squares.masked_fill_(self._excluded[rows, None] == names, torch.inf)
        found = squares.topk(min(num, len(points)), dim=1, largest=False)
        columns = [
            (queries.double() - points[column].double()).norm(dim=1)
            for column in found.indices.unbind(1)
        ]
        exact = torch.stack(columns, dim=1).masked_fill(found.values.isinf(), torch.inf)
        distances = torch.cat([self.distances[rows], exact], dim=1)
        indices = torch.cat([self.indices[rows], names[found.indices]], dim=1)
        kept = distances.topk(num, dim=1, largest=False)
        self.distances[rows] = kept.values
        self.indices[rows] = indices.gather(1, kept.indices).where(kept.values.isfinite(), -1)


def ratio_to_second(distances: Tensor) -> Tensor:
    """Distance to the nearest over that to the second nearest.

    Args:
        distances: ``(n, num)`` ascending, ``num`` at least 2.

    Returns:
        ``(n,)`` in ``[0, 1]``; 0 for a copy, 1 where the two nearest are as near, copies included.

    Raises:
        InputError: If there is no second one.
    """
    if distances.shape[-1] < 2:
        raise InputError("a ratio needs two neighbours; set audit.shown to 2 or more")
    first, second = distances[..., 0], distances[..., 1]
    return torch.where(second > 0, first / torch.where(second > 0, second, 1), 1.0)


def relative_distances(distances: Tensor, real_distances: Tensor) -> Tensor:
    """Distance to the nearest real image over what is usual among real images.

    Args:
        distances: ``(n, num)`` distances of images to real images, ascending.
        real_distances: ``(r, num)`` distances of real images to other ones, ascending.

    Returns:
        ``(n,)``; 0 for a copy, about 1 for an image that is as near as real images are.

    Raises:
        InputError: If half of the real images are duplicates, so that nothing is usual.
    """
    usual = float(real_distances[:, 0].median())
    if not 0 < usual < float("inf"):
        raise InputError(
            f"the median distance of real images to the nearest other one is {usual:g}; remove "
            "duplicates from the data set"
        )
    return distances[:, 0] / usual
