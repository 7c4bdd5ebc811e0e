"""Small transformers, real and analytic."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
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


class Batches:
    """Batches in a given order, as often as asked."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def fit(
    module: lightning.LightningModule,
    batches: list[Any],
    *,
    ckpt_path: Path | None = None,
    save: Path | None = None,
    **options: Any,
) -> Any:
    """Train a module on a CPU, one epoch unless said otherwise, and return it."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain = {"accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": False}
    trainer = lightning.Trainer(**{**plain, **quiet, **options})
    trainer.fit(module, Batches(batches), ckpt_path=ckpt_path)
    if save is not None:
        trainer.save_checkpoint(save)
    return module


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
