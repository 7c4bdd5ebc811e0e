"""Weighted products of the three geometries: learnable curvatures and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.curved import CURVATURE_RANGE
from geodm_lightning.geometry.hyperbolic import Hyperbolic
from geodm_lightning.geometry.manifold import Euclidean, Manifold, at_least_float32, pairwise
from geodm_lightning.geometry.spherical import Spherical
from geodm_lightning.types import InputError

_CURVED = {"hyperbolic": Hyperbolic, "spherical": Spherical}
FACTOR_NAMES = ("euclidean", *_CURVED)


class ProductManifold(nn.Module):
    r"""Weighted product of manifolds which share their normal coordinates.

    .. math:: d^2(u, v) = \sum_g w_g\, d_g(u, v)^2, \qquad \sum_g w_g = 1

    The product of a flat, a hyperbolic and a spherical space with learnable curvatures and
    weights is the GeoDM paper's; that the factors share one tangent vector, the softmax over
    weights and this form of the distance are inferred, the equations not being public.

    Args:
        factors: Manifolds by name, in the order of the weights.
        weights: One weight for each factor, non-negative, summing to 1; equal when omitted.
        learn_weights: Whether the weights are the softmax of a parameter that starts at
            their logarithm; otherwise they are fixed and may be zero. A factor with a fixed
            weight of zero is never computed.

    Raises:
        InputError: If there is no factor, or the weights do not fit.
    """

    weight_logits: Tensor
    fixed_weights: Tensor

    def __init__(
        self,
        factors: Mapping[str, Manifold],
        *,
        weights: Sequence[float] | None = None,
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        if not factors:
            raise InputError(f"factors is empty; choose from {', '.join(FACTOR_NAMES)}")
        values = _check_weights(weights, list(factors), positive=learn_weights)
        self.factors = nn.ModuleDict(factors)
        self.learn_weights = learn_weights
        self._active = tuple(i for i, value in enumerate(values) if value > 0)
        if learn_weights:
            self.weight_logits = nn.Parameter(torch.tensor(values).log())
        else:
            self.register_buffer("fixed_weights", torch.tensor(values))

    @property
    def weights(self) -> Tensor:
        """Weights of the factors, ``(num_factors,)``, which sum to 1."""
        return self.weight_logits.softmax(-1) if self.learn_weights else self.fixed_weights

    @property
    def learn_curvature(self) -> bool:
        """Whether any factor in use has a learnable curvature."""
        return any(factor.learnable for _, factor, _ in self.active_factors())

    def active_factors(self) -> list[tuple[str, Manifold, Tensor]]:
        """Name, manifold and weight of each factor that is not fixed at weight zero."""
        named = self._named_factors()
        weights = self.weights
        return [(*named[i], weights[i]) for i in self._active]

    def coordinates(self, u: Tensor) -> list[Tensor]:
        """Normal coordinates of each factor in use, in the order of :meth:`active_factors`.

        Args:
            u: Features, shape ``(..., n, d)``.

        Returns:
            One tensor ``(..., n, d_g)`` for each factor; factors that see all features share
            the very same tensor.
        """
        return [u] * len(self._active)

    def factor_costs(self, u: Tensor, v: Tensor) -> list[Tensor]:
        """Squared distances on each factor in use; those that share coordinates share a product.

        Args:
            u: Features, shape ``(..., n, d)``.
            v: Features, shape ``(..., m, d)``.

        Returns:
            One tensor ``(..., n, m)`` for each of :meth:`active_factors`, without its weight.
        """
        separation = pairwise(u, v)
        return [
            factor.squared_distance(*separation[:3], difference=separation.difference)
            for _, factor, _ in self.active_factors()
        ]

    def centroids(self, u: Tensor) -> list[Tensor]:
        """Mean point ``(..., d_g)`` of ``(..., n, d)`` on each factor in use."""
        points = zip(self.active_factors(), self.coordinates(u), strict=True)
        return [factor.centroid(own) for (_, factor, _), own in points]

    def cost(self, u: Tensor, v: Tensor) -> Tensor:
        """Squared product distances between two sets.

        Args:
            u: Features, shape ``(..., n, d)``.
            v: Features, shape ``(..., m, d)``.

        Returns:
            Costs of shape ``(..., n, m)``.
        """
        return self._weighted_sum(self.factor_costs(u, v))

    def centroid_cost(self, u: Tensor, v: Tensor) -> Tensor:
        """Squared product distance between the centroids of two sets.

        Args:
            u: Features, shape ``(..., n, d)``.
            v: Features, shape ``(..., m, d)``.

        Returns:
            Costs of shape ``(...,)``; in flat space ``|mean(u) - mean(v)|^2``.
        """
        return self.squared_distance(self.centroids(u), self.centroids(v))

    def squared_distance(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
        """Squared product distance of paired points given factor by factor.

        Args:
            x: One tensor ``(..., d_g)`` of normal coordinates for each factor in use.
            y: The same of the other points.

        Returns:
            Squared distances of shape ``(...,)``.
        """
        pairs = zip(self.active_factors(), x, y, strict=True)
        return self._weighted_sum([factor.dist2(a, b) for (_, factor, _), a, b in pairs])

    def _weighted_sum(self, terms: Sequence[Tensor]) -> Tensor:
        """Sum of one term per factor in use, each times its weight."""
        weighted = [w * term for (_, _, w), term in zip(self.active_factors(), terms, strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def embed(self, u: Tensor) -> list[Tensor]:
        """Coordinates ``sqrt(weight) * factor.embed(u)`` of the factors in use.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            One tensor ``(..., n, d)`` for each factor, ``(..., n, d + 1)`` for a sphere; the
            Euclidean factor comes first, the others in their own order.
        """
        ordered = sorted(self.active_factors(), key=lambda item: item[0] != "euclidean")
        return [weight.sqrt() * factor.embed(u) for _, factor, weight in ordered]

    def radius_penalty(self, u: Tensor) -> Tensor:
        r"""Mean of :math:`(\sqrt{|curvature|}\,\|u\| - 1)^2`, summed over learned curvatures.

        It holds the radius of curvature near the size of the data. The paper regularises the
        curvature by a "deviation from the radius"; this form of it is inferred.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            Penalties of shape ``(...,)``; zeros when no curvature is learned.
        """
        radius = torch.linalg.vector_norm(at_least_float32(u), dim=-1)
        penalty = torch.zeros_like(radius[..., 0])
        for _, factor, _ in self.active_factors():
            if factor.learnable:
                angle = factor.curvature.abs().sqrt() * radius
                penalty = penalty + (angle - 1).square().mean(-1)
        return penalty

    def entropy(self) -> Tensor:
        """Entropy of the weights in nats, a scalar; 0 when one factor has it all."""
        return torch.special.entr(self.weights).sum()

    def clamp_(self) -> None:
        """Put every curvature back into its allowed range, in place."""
        for _, factor in self._named_factors():
            factor.clamp_()

    def state(self) -> dict[str, float]:
        """Curvatures of the curved factors and all weights as numbers, for logs and manifests."""
        curvatures = {
            f"curvature/{name}": factor.curvature.item()
            for name, factor in self._named_factors()
            if not isinstance(factor, Euclidean)
        }
        weights = self.weights.tolist()
        return curvatures | {f"weight/{name}": weights[i] for i, name in enumerate(self.factors)}

    def _named_factors(self) -> list[tuple[str, Manifold]]:
        return cast("list[tuple[str, Manifold]]", list(self.factors.items()))


def build_product(
    factors: Sequence[str],
    *,
    curvature: float | Mapping[str, float],
    weights: Sequence[float] | None = None,
    learn_curvature: bool = True,
    learn_weights: bool = True,
    curvature_range: tuple[float, float] = CURVATURE_RANGE,
) -> ProductManifold:
    """Build a product manifold from names.

    Args:
        factors: Different names out of ``euclidean``, ``hyperbolic`` and ``spherical``.
        curvature: Magnitude of the curvatures at the start, in units of 1/length^2 (the mean
            feature norm being 1): a positive number for all curved factors, or one by name.
        weights: One weight for each factor, summing to 1; equal when omitted.
        learn_curvature: Whether the curvatures are parameters.
        learn_weights: Whether the weights are the softmax of a parameter.
        curvature_range: Smallest and largest magnitude; see :meth:`ProductManifold.clamp_`.

    Returns:
        The product, on the CPU in the default precision.

    Raises:
        InputError: If a name is unknown or repeated, or a number does not fit.

    Example:
        >>> plane = build_product(["euclidean"], curvature=1.0)
        >>> plane.cost(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[25.]], grad_fn=<MulBackward0>)
    """
    names = [factors] if isinstance(factors, str) else list(factors)
    for name in names:
        if name not in FACTOR_NAMES:
            raise InputError(f"unknown factor {name!r}; choose from {', '.join(FACTOR_NAMES)}")
        if names.count(name) > 1:
            raise InputError(f"factor {name!r} is repeated; name each factor once")
    manifolds: dict[str, Manifold] = {}
    for name in names:
        if name not in _CURVED:
            manifolds[name] = Euclidean()
            continue
        if isinstance(curvature, Mapping) and name not in curvature:
            raise InputError(f"curvature has no entry for {name!r}, only {list(curvature)}")
        manifolds[name] = _CURVED[name](
            float(curvature[name] if isinstance(curvature, Mapping) else curvature),
            learnable=learn_curvature,
            curvature_range=curvature_range,
        )
    return ProductManifold(manifolds, weights=weights, learn_weights=learn_weights)


def _check_weights(
    weights: Sequence[float] | None, names: list[str], *, positive: bool
) -> list[float]:
    """Return one weight for each name, equal ones when none are given."""
    if weights is None:
        return [1 / len(names)] * len(names)
    values = [float(weight) for weight in weights]
    if len(values) != len(names):
        raise InputError(f"weights {values} must have one entry for each of {', '.join(names)}")
    if not all(0 <= value < math.inf for value in values):
        raise InputError(f"weights must not be negative, got {values}")
    if abs(sum(values) - 1) > 1e-4:
        raise InputError(f"weights must sum to 1, got {values} with sum {sum(values):g}")
    if positive and min(values) == 0:
        raise InputError(f"learned weights must be positive, got {values}; drop the factor or fix")
    return values
