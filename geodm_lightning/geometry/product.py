"""Weighted products of spaces of constant curvature: costs, centroids, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geodm_lightning.geometry.curved import CURVATURE_RANGE
from geodm_lightning.geometry.embedding import Embedding
from geodm_lightning.geometry.euclidean import Euclidean
from geodm_lightning.geometry.factors import build_factors
from geodm_lightning.geometry.heads import Heads, IdentityHeads, build_heads, each_once
from geodm_lightning.geometry.manifold import Manifold, pairwise, radius_of
from geodm_lightning.geometry.weights import SKIP_BELOW, WeightedFactors


class ProductManifold(WeightedFactors):
    r"""Weighted product of manifolds, each seeing the features through a head of its own.

    .. math:: d^2(u, v) = \sum_g w_g\, d_g(u, v)^2, \qquad \sum_g w_g = 1

    The product of a flat, a hyperbolic and a spherical space with learnable curvatures and
    weights is the GeoDM paper's; that the factors share one tangent vector (or parts of it, see
    :mod:`geodm_lightning.geometry.heads`), the softmax over weights and this form of the
    distance are inferred, the equations not being public.

    Args:
        factors: Manifolds by name, in the order of the weights.
        heads: Which features each factor sees; all of them when omitted.
        weights: One weight for each factor; see :class:`WeightedFactors` for this and the
            rest.
        learn_weights: Whether the weights are parameters.
        learning: Who learns; with ``fixed`` nothing is, the heads included.
        skip_below: Learned weight under which a factor may be left out.

    Raises:
        InputError: If there is no factor, or an argument does not fit.
    """

    def __init__(
        self,
        factors: Mapping[str, Manifold],
        *,
        heads: Heads | None = None,
        weights: Sequence[float] | None = None,
        learn_weights: bool = False,
        learning: str = "joint",
        skip_below: float = SKIP_BELOW,
    ) -> None:
        super().__init__(
            factors,
            weights=weights,
            learn_weights=learn_weights,
            learning=learning,
            skip_below=skip_below,
        )
        self.heads = IdentityHeads() if heads is None else heads
        if learning == "fixed":
            self.heads.requires_grad_(False)

    @property
    def learn_heads(self) -> bool:
        """Whether any head is being learned."""
        return any(parameter.requires_grad for parameter in self.heads.parameters())

    def coordinates(self, u: Tensor) -> list[Tensor]:
        """Normal coordinates of each factor in use, in the order of :meth:`active_factors`.

        Args:
            u: Features, shape ``(..., n, d)``.

        Returns:
            A tensor ``(..., n, d_g)`` for each factor; the very same where all see everything.
        """
        return self.heads(u, self._active)

    def factor_costs(self, u: Tensor, v: Tensor) -> list[Tensor]:
        """Squared distances on each factor in use; those that share coordinates share a product.

        Args:
            u: Features, shape ``(..., n, d)``.
            v: Features, shape ``(..., m, d)``.

        Returns:
            One tensor ``(..., n, m)`` for each of :meth:`active_factors`, without its weight.
        """
        separations = each_once(pairwise, self.coordinates(u), self.coordinates(v))
        return [
            factor.squared_distance(*separation[:3], difference=separation.difference)
            for (_, factor, _), separation in zip(self.active_factors(), separations, strict=True)
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
        return self.weighted_sum(self.factor_costs(u, v))

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
            Squared distances, shape ``(...,)``.
        """
        pairs = zip(self.active_factors(), x, y, strict=True)
        return self.weighted_sum([factor.dist2(a, b) for (_, factor, _), a, b in pairs])

    def embed(self, u: Tensor) -> list[Tensor]:
        """Coordinates ``sqrt(weight) * factor.embed(u)`` of the factors in use.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            One tensor ``(..., n, d)`` for each factor, ``(..., n, d + 1)`` for a sphere; the
            Euclidean factor comes first, the others in their own order.
        """
        return [embedding.coordinates() for embedding in self.embeddings(u)]

    def embeddings(self, u: Tensor) -> list[Embedding]:
        """The same taken apart; factors that see all features share the very same tangents."""
        points = self.coordinates(u)
        items = zip(self.active_factors(), points, each_once(radius_of, points), strict=True)
        ordered = sorted(items, key=lambda item: not isinstance(item[0][1], Euclidean))
        return [
            factor.embedding(own, radius).times(weight.sqrt())
            for (_, factor, weight), own, radius in ordered
        ]

    def radius_penalty(self, u: Tensor) -> Tensor:
        """Sum of the factors' penalties over the curvatures that are being learned.

        Args:
            u: Features, shape ``(..., n, d)``.

        Returns:
            Penalties of shape ``(...,)``; zeros when no curvature is learned. See the
            ``radius_penalty`` of each factor.
        """
        radii = each_once(radius_of, self.coordinates(u))
        penalty = torch.zeros_like(radii[0][..., 0])
        for (_, factor, _), radius in zip(self.active_factors(), radii, strict=True):
            if factor.learnable:
                penalty = penalty + factor.radius_penalty(radius)
        return penalty

    def clamp_(self) -> None:
        """Put curvatures back into their range and learned heads to orthonormal rows, in place."""
        for _, factor in self.named_factors():
            factor.clamp_()
        self.heads.clamp_()


def build_product(
    factors: Sequence[str],
    *,
    curvature: float | Mapping[str, float],
    weights: Sequence[float] | None = None,
    learn_curvature: bool = True,
    learn_weights: bool = True,
    curvature_range: tuple[float, float] = CURVATURE_RANGE,
    learning: str = "joint",
    heads: str = "identity",
    dims: Sequence[int] | None = None,
    num_features: int | None = None,
    seed: int = 0,
    skip_below: float = SKIP_BELOW,
) -> ProductManifold:
    """Build a product manifold from names.

    Args:
        factors: Names out of ``euclidean``, ``hyperbolic``, ``spherical`` and
            ``stereographic``. The second hyperbolic one is called ``hyperbolic_2``, and so on.
        curvature: Curvatures at the start, in 1/length^2 (the mean feature norm being 1): a
            number for all curved factors, or one by name, a repeated factor falling back on
            the entry of its kind. Positive magnitudes; a stereographic factor takes any sign
            and starts at 0 when it has no entry. Factors that share coordinates and start
            alike stay alike: give them different curvatures.
        weights: One weight for each factor, summing to 1; equal when omitted.
        learn_curvature: Whether the curvatures are parameters.
        learn_weights: Whether the weights are the softmax of a parameter.
        curvature_range: Smallest and largest magnitude; see :meth:`ProductManifold.clamp_`.
        learning: Who learns: ``fixed``, ``joint``, ``adversarial`` or ``from_real``; ``fixed``
            overrides both flags. See :class:`WeightedFactors`.
        heads: ``identity``, every factor sees all features; ``split``, a random orthonormal
            basis is divided among them; ``learned``, a matrix with orthonormal rows for each.
        dims: Directions each factor sees; see :func:`geodm_lightning.geometry.heads.build_heads`.
        num_features: Width of the features, which heads other than the identity need.
        seed: Seed of the run, from which the bases of the heads are drawn.
        skip_below: See :meth:`WeightedFactors.skip_vanished_`.

    Returns:
        The product, on the CPU in the default precision.

    Raises:
        InputError: If a name is unknown or a number does not fit.

    Example:
        >>> import torch
        >>> plane = build_product(["euclidean"], curvature=1.0)
        >>> plane.cost(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[25.]], grad_fn=<MulBackward0>)
    """
    kinds = [factors] if isinstance(factors, str) else list(factors)
    manifolds = build_factors(
        kinds,
        curvature=curvature,
        learnable=learn_curvature and learning != "fixed",
        curvature_range=curvature_range,
    )
    own = build_heads(
        heads, num_factors=len(kinds), dims=dims, num_features=num_features, seed=seed
    )
    return ProductManifold(
        manifolds,
        heads=own,
        weights=weights,
        learn_weights=learn_weights,
        learning=learning,
        skip_below=skip_below,
    )
