from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geodm_lightning.geometry import ProductManifold, build_product

NAMES = ["euclidean", "hyperbolic", "spherical"]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def features(device: torch.device, rng: torch.Generator) -> Callable[..., tuple[Tensor, Tensor]]:
    """Unscaled features of three classes, real ``(3, R, 8)`` and synthetic ``(3, S, 8)``."""

    def draw(
        dtype: torch.dtype, num_real: int = 12, num_synthetic: int = 5
    ) -> tuple[Tensor, Tensor]:
        options = {"generator": rng, "device": device, "dtype": dtype}
        centre = 3 * torch.randn(3, 1, 8, **options)
        real = centre + torch.randn(3, num_real, 8, **options)
        return real, centre + 0.5 + torch.randn(3, num_synthetic, 8, **options)

    return draw


@pytest.fixture
def flat(device: torch.device) -> ProductManifold:
    """All three factors, the whole weight on the flat one."""
    return build_product(
        NAMES, curvature=1.0, weights=[1, 0, 0], learn_curvature=False, learn_weights=False
    ).to(device)


@pytest.fixture
def learned(device: torch.device) -> ProductManifold:
    """All three factors with learnable curvatures and weights."""
    return build_product(NAMES, curvature=1.0).to(device)
