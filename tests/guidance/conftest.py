from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geodm_lightning.geometry import build_product
from geodm_lightning.guidance import AbsoluteGround, GroundCost, ProductGround
from geodm_lightning.types import DenoisingStep

Draw = Callable[..., Tensor]


@pytest.fixture
def draw(device: torch.device, rng: torch.Generator) -> Draw:
    """Standard normal float64 numbers of a shape."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, device=device, dtype=torch.float64)

    return normal


@pytest.fixture(params=["absolute", "product"])
def ground(request: pytest.FixtureRequest, device: torch.device) -> GroundCost:
    if request.param == "absolute":
        return AbsoluteGround()
    names = ["euclidean", "hyperbolic", "spherical"]
    return ProductGround(build_product(names, curvature=1.0).to(device))


def guided_step(latents: Tensor, *, clean: Tensor | None = None, index: int = 35) -> DenoisingStep:
    """Step 35 of 50, inside the window of all guidances, whose noise is ``latents``'s rest."""
    clean = latents if clean is None else clean
    share = 0.04
    noise = (latents - share**0.5 * clean) / (1 - share) ** 0.5
    return DenoisingStep(index, 50, latents, clean, noise, share)
