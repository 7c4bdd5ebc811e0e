from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geodm_lightning.geometry import Euclidean, Hyperbolic, Manifold, Spherical

WIDE = (1e-12, 1e3)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def draw(device: torch.device, rng: torch.Generator) -> Callable[..., Tensor]:
    """Gaussian directions at the given radius; a tensor of radii broadcasts."""

    def points(*shape: int, radius: float | Tensor = 1.0, dtype: torch.dtype) -> Tensor:
        u = torch.randn(*shape, generator=rng, device=device, dtype=torch.float64)
        return (u / u.norm(dim=-1, keepdim=True) * radius).to(dtype)

    return points


@pytest.fixture
def build(device: torch.device) -> Callable[..., Manifold]:
    """A manifold by name, of any curvature."""

    def manifold(name: str, magnitude: float = 1.0, *, learnable: bool = False) -> Manifold:
        if name == "euclidean":
            return Euclidean().to(device)
        kind = {"hyperbolic": Hyperbolic, "spherical": Spherical}[name]
        return kind(magnitude, learnable=learnable, curvature_range=WIDE).to(device)

    return manifold
