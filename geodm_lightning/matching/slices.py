r"""Sliced transport: mean costs of one-dimensional shadows.

Costs of directions are averaged and multiplied by the number of dimensions: the mean over
directions of :math:`\langle v, \theta\rangle^2` is :math:`\|v\|^2 / d`, so a small translation
near the origin costs its squared length, which is what the full transport costs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geodm_lightning.geometry import Euclidean, Hyperbolic, Manifold, ProductManifold, Spherical
from geodm_lightning.geometry.heads import each_once
from geodm_lightning.matching.projections import (
    Shadows,
    cast_shadows,
    draw_directions,
    draw_planes,
    geodesic_coordinates,
    great_circle_coordinates,
    horosphere_coordinates,
    meridian_coordinates,
)
from geodm_lightning.transport.sliced import circle_cost, line_cost
from geodm_lightning.types import InputError

HYPERBOLIC_SLICES = {"horospheres": horosphere_coordinates, "geodesics": geodesic_coordinates}
SPHERICAL_SLICES = ("meridians", "great_circles")
_SLICED = (Euclidean, Hyperbolic, Spherical)


class Slices:
    """Families of slices and how many of each.

    Args:
        num_slices: Directions or planes drawn at every call, shared by all classes.
        hyperbolic: ``"horospheres"`` or ``"geodesics"`` through the origin.
        spherical: ``"meridians"``, great circles through the pole, or ``"great_circles"`` of
            uniform planes, the published form. Those are not multiplied by the dimension: a
            typical plane has a point about ``sqrt(2 / d)`` from its centre, which magnifies
            angles by ``sqrt(d / 2)`` as it is; planes nearly orthogonal to a point magnify
            without bound, so no factor gives a small translation its squared length.

    Raises:
        InputError: If there is no slice or a family is unknown.
    """

    def __init__(
        self,
        num_slices: int = 64,
        *,
        hyperbolic: str = "horospheres",
        spherical: str = "meridians",
    ) -> None:
        if num_slices < 1:
            raise InputError(f"num_slices must be at least 1, got {num_slices}")
        for name, value, known in (
            ("hyperbolic_slices", hyperbolic, HYPERBOLIC_SLICES),
            ("spherical_slices", spherical, SPHERICAL_SLICES),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.num_slices = num_slices
        self.hyperbolic = hyperbolic
        self.spherical = spherical

    def check(self, geometry: ProductManifold) -> None:
        """Refuse a geometry with a factor that has no slices.

        Raises:
            InputError: Naming the factor.
        """
        for name, factor, _ in geometry.active_factors():
            if not isinstance(factor, _SLICED):
                raise InputError(
                    f"transport.solver=sliced knows no slices of the factor {name!r}; "
                    "drop the factor or choose sinkhorn or exact"
                )

    def costs(
        self, geometry: ProductManifold, u: Tensor, v: Tensor, *, generator: torch.Generator
    ) -> list[Tensor]:
        """Sliced squared 2-Wasserstein distances on each factor in use, without its weight.

        Args:
            geometry: Product manifold whose factors have slices.
            u: Features, shape ``(..., n, d)``.
            v: Features, shape ``(..., m, d)``.
            generator: Source of the directions and planes, on any device.

        Returns:
            One tensor ``(...,)`` in squared lengths for each of ``active_factors()``.
        """

        def cast(x: Tensor, y: Tensor) -> tuple[Shadows, Shadows]:
            directions = draw_directions(x, self.num_slices, generator=generator)
            return cast_shadows(x, directions), cast_shadows(y, directions)

        factors = [factor for _, factor, _ in geometry.active_factors()]
        sides = geometry.coordinates(u), geometry.coordinates(v)
        radial = [i for i, factor in enumerate(factors) if not self._cuts_planes(factor)]
        shared = each_once(cast, *([side[i] for i in radial] for side in sides))
        shadows = dict(zip(radial, shared, strict=True))
        costs = []
        for i, (factor, x, y) in enumerate(zip(factors, *sides, strict=True)):
            if i in shadows:
                costs.append(x.shape[-1] * self._radial_cost(factor, *shadows[i]))
            else:
                costs.append(self._great_circle_cost(factor, x, y, generator))
        return costs

    def _cuts_planes(self, factor: Manifold) -> bool:
        """Whether slices of a factor are uniform planes, which shadows do not serve."""
        return isinstance(factor, Spherical) and self.spherical == "great_circles"

    def _radial_cost(self, factor: Manifold, x: Shadows, y: Shadows) -> Tensor:
        """Mean cost over slices that follow from shadows."""
        if isinstance(factor, Spherical):
            cost = circle_cost(*(meridian_coordinates(factor, shadows) for shadows in (x, y)))
            return cost.mean(-1) * (2 * math.pi / factor.sqrt_magnitude).square()
        if isinstance(factor, Hyperbolic):
            project = HYPERBOLIC_SLICES[self.hyperbolic]
            return line_cost(project(factor, x), project(factor, y)).mean(-1)
        return line_cost(x.along, y.along).mean(-1)

    def _great_circle_cost(
        self, factor: Manifold, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mean cost over the great circles of uniform planes."""
        assert isinstance(factor, Spherical)
        planes = draw_planes(x, self.num_slices, generator=generator)
        cost = circle_cost(*(great_circle_coordinates(factor, points, planes) for points in (x, y)))
        return cost.mean(-1) * (2 * math.pi / factor.sqrt_magnitude).square()
