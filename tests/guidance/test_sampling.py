"""Guidance inside the sampler, where it is used."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.guidance import (
    CombinedGuidance,
    DeviationGuidance,
    InfluenceGuidance,
    TransportGuidance,
)

NUM_CLASSES, SIDE, DEVIATION = 8, 4, 0.1


class TwoModes(nn.Module):
    """The best answer for classes that are normal about -1 or about 1 in all coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = nn.Parameter(torch.ones(SIDE, SIDE, dtype=torch.float64))
        self.table = NoiseSchedule().alphas_cumprod
        self.config = SimpleNamespace(
            sample_size=SIDE, in_channels=1, out_channels=1, num_embeds_ada_norm=NUM_CLASSES
        )

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> SimpleNamespace:
        kept = self.table[timestep][:, None, None, None].to(latents.dtype)
        spread = kept * DEVIATION**2 + 1 - kept
        centre = kept.sqrt() * self.mode
        side = torch.tanh((centre * latents / spread).sum((-2, -1), keepdim=True))
        return SimpleNamespace(sample=(1 - kept).sqrt() * (latents - side * centre) / spread)


def sample(guidance, labels: list[int]) -> Tensor:
    sampler = Sampler(Denoiser(TwoModes(), guidance_scale=1.0), num_steps=50)
    generators = [torch.Generator().manual_seed(label) for label in labels]
    return sampler.sample(torch.tensor(labels), generators=generators, guidance=guidance)


@pytest.fixture
def left() -> Tensor:
    """Ten latents of each class about -1."""
    noise = torch.randn(NUM_CLASSES, 10, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return DEVIATION * noise.double() - 1


@pytest.mark.parametrize("through", ["latent", "clean"])
@pytest.mark.parametrize("side", [-1, 1])
def test_samples_end_in_the_mode_their_class_lacks(left, through, side):
    classes = list(range(NUM_CLASSES))
    ends = sample(None, classes).mean((-3, -2, -1))
    assert (ends < 0).any()
    assert (ends > 0).any()
    real = torch.cat([left, -left], 1)
    window = (0.3, 0.9)  # these modes part as late as step 20
    guidance = TransportGuidance(real, scale=0.2, window=window, through=through)
    guidance.begin(-side * left[:, :1])
    guided = sample(guidance, classes).mean((-3, -2, -1))
    torch.testing.assert_close(guided, torch.full_like(guided, -side), rtol=0, atol=0.2)


def build(left: Tensor, classes: list[int]) -> CombinedGuidance:
    """All three guidances of some classes, one finished sample of each."""
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 9), nn.Tanh(), nn.Linear(9, 8))
    network = network.double()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    width = sum(parameter.numel() for parameter in network.parameters())
    real = torch.randn(NUM_CLASSES, width, generator=generator, dtype=torch.float64)
    labels = torch.tensor(classes)
    influence = InfluenceGuidance([network], [real[classes]], decode=torch.sinh, labels=labels)
    guidance = CombinedGuidance(
        [TransportGuidance(left[classes]), DeviationGuidance(scale=0.2), influence]
    )
    guidance.begin(left[classes, :1])
    return guidance


def test_a_batch_of_classes_is_its_classes_alone(left):
    together = sample(build(left, [5, 2]), [5, 2])
    for row, label in enumerate([5, 2]):
        alone = sample(build(left, [label]), [label])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-10)
    assert (together - sample(None, [5, 2])).abs().max() > 1e-4  # they do push


def test_guidance_of_no_scale_changes_no_bit(left):
    off = CombinedGuidance([TransportGuidance(left[:2], scale=0.0), DeviationGuidance(scale=0.0)])
    off.begin(left[:2, :1])
    assert torch.equal(sample(off, [0, 1]), sample(None, [0, 1]))
