"""Small transformers, real and analytic."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.diffusion.training import build_transformer


class GaussianTransformer(nn.Module):
    """The best answer for data of class ``y`` that are normal about ``means[y]``."""

    def __init__(self, means: Tensor, deviation: float, side: int = 4) -> None:
        super().__init__()
        self.means = nn.Parameter(means)
        self.deviation = deviation
        self.table = NoiseSchedule().alphas_cumprod
        self.config = SimpleNamespace(
            sample_size=side, in_channels=1, out_channels=1, num_embeds_ada_norm=len(means)
        )

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> SimpleNamespace:
        kept = self.table[timestep][:, None, None, None].to(latents.dtype)
        centre = kept.sqrt() * self.means[class_labels][:, None, None, None]
        spread = kept * self.deviation**2 + 1 - kept
        return SimpleNamespace(sample=(1 - kept).sqrt() * (latents - centre) / spread)


@pytest.fixture(scope="session")
def make_transformer() -> Callable[..., nn.Module]:
    """Build a small transformer whose zeros are replaced, so that all inputs matter."""

    def make(
        *, channels: int = 4, learned_variance: bool = True, dtype: torch.dtype = torch.float64
    ) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        transformer = build_transformer(
            (channels, 4, 4),
            3,
            hidden=16,
            depth=2,
            heads=2,
            patch_size=2,
            learned_variance=learned_variance,
            generator=generator,
        )
        with torch.no_grad():
            for parameter in transformer.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3, generator=generator)
        return transformer.to(dtype)

    return make


@pytest.fixture
def generators() -> Callable[[int], list[torch.Generator]]:
    """Make one generator per sample."""
    return lambda num: [torch.Generator().manual_seed(100 + index) for index in range(num)]
