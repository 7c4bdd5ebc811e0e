"""The factors of a product by name, and their curvatures at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geodm_lightning.geometry.euclidean import Euclidean
from geodm_lightning.geometry.hyperbolic import Hyperbolic
from geodm_lightning.geometry.manifold import Manifold
from geodm_lightning.geometry.spherical import Spherical
from geodm_lightning.geometry.stereographic import Stereographic
from geodm_lightning.types import InputError

_CURVED = {"hyperbolic": Hyperbolic, "spherical": Spherical, "stereographic": Stereographic}
FACTOR_NAMES = ("euclidean", *_CURVED)


def build_factors(
    kinds: Sequence[str],
    *,
    curvature: float | Mapping[str, float],
    learnable: bool,
    curvature_range: tuple[float, float],
) -> dict[str, Manifold]:
    """Build factors and name them: the kind, and a number from the second of a kind on.

    Args:
        kinds: Out of :data:`FACTOR_NAMES`, each as often as wanted.
        curvature: One number for all curved factors, or one by name; a factor such as
            ``hyperbolic_2`` without an entry of its own takes that of its kind. Magnitudes,
            except for a stereographic factor, whose curvature has a sign and is 0 when missing.
        learnable: Whether the curvatures are parameters.
        curvature_range: Smallest and largest magnitude.

    Returns:
        Manifolds by name, in the order of ``kinds``.

    Raises:
        InputError: If a kind is unknown, or a curvature is missing or out of range.
    """
    factors: dict[str, Manifold] = {}
    for position, kind in enumerate(kinds):
        if kind not in FACTOR_NAMES:
            raise InputError(f"unknown factor {kind!r}; choose from {', '.join(FACTOR_NAMES)}")
        number = list(kinds[: position + 1]).count(kind)
        name = kind if number == 1 else f"{kind}_{number}"
        if kind == "euclidean":
            factors[name] = Euclidean()
        else:
            factors[name] = _CURVED[kind](
                _curvature_of(name, kind, curvature),
                learnable=learnable,
                curvature_range=curvature_range,
            )
    return factors


def _curvature_of(name: str, kind: str, curvature: float | Mapping[str, float]) -> float:
    """The factor's own entry, or else that of its kind."""
    if not isinstance(curvature, Mapping):
        return float(curvature)
    for key in (name, kind):
        if key in curvature:
            return float(curvature[key])
    if kind == "stereographic":
        return 0.0
    raise InputError(f"curvature has no entry for {name!r}, only {list(curvature)}")
