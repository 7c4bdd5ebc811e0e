"""Features → points, costs: spaces of constant curvature and their weighted product."""

from geodm_lightning.geometry.euclidean import Euclidean
from geodm_lightning.geometry.hyperbolic import Hyperbolic
from geodm_lightning.geometry.manifold import Manifold
from geodm_lightning.geometry.product import ProductManifold, build_product
from geodm_lightning.geometry.spherical import Spherical
from geodm_lightning.geometry.stereographic import Stereographic

__all__ = [
    "Euclidean",
    "Hyperbolic",
    "Manifold",
    "ProductManifold",
    "Spherical",
    "Stereographic",
    "build_product",
]
