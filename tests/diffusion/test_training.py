import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geodm_lightning.diffusion.codec import PixelCodec
from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.diffusion.training import (
    DenoiserSettings,
    DenoiserTraining,
    build_transformer,
)
from geodm_lightning.diffusion.weights import identity_of
from geodm_lightning.types import InputError

from .conftest import fit

ARCHITECTURE = {"hidden": 16, "depth": 2, "heads": 2, "patch_size": 2, "learned_variance": False}


def built(seed=0, **changed):
    generator = torch.Generator().manual_seed(seed)
    return build_transformer((1, 4, 4), 3, **{**ARCHITECTURE, **changed}, generator=generator)


def training(transformer, *, num_steps=6, seed=0, **changed):
    settings = DenoiserSettings(num_steps, **changed)
    return DenoiserTraining(transformer, PixelCodec(4, channels=1), settings=settings, seed=seed)


def batches():
    generator = torch.Generator().manual_seed(9)
    for _ in range(3):
        images = torch.rand(8, 1, 4, 4, generator=generator)
        yield images, torch.randint(3, (8,), generator=generator)


class KnownTransformer(nn.Module):
    """Knows that the clean latents are 0 and answers their noise and a chosen variance."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance
        self.seen = []
        self.factor = nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(num_embeds_ada_norm=3)

    def forward(self, latents, timestep, class_labels):
        self.seen.append((timestep, class_labels))
        kept = NoiseSchedule().alphas_cumprod[timestep][:, None, None, None].to(latents.dtype)
        noise = self.factor * latents / (1 - kept).sqrt()
        if self.variance is None:
            return SimpleNamespace(sample=noise)
        return SimpleNamespace(
            sample=torch.cat([noise, torch.full_like(noise, self.variance)], dim=1)
        )


def loss_of(transformer, *, num=64, labels=None, **changed):
    module = training(transformer, **changed)
    latents = torch.zeros(num, 1, 4, 4, dtype=torch.float64)
    labels = torch.zeros(num, dtype=torch.int64) if labels is None else labels
    loss = module.loss(latents, labels, generator=torch.Generator().manual_seed(0))
    return module, loss


@pytest.mark.parametrize("variance", [None, -1.0])
def test_the_right_noise_with_the_right_variance_costs_nothing(variance):
    _, loss = loss_of(KnownTransformer(variance))
    assert loss.item() == pytest.approx(0, abs=1e-9)


def test_too_great_a_variance_costs_the_divergence_of_two_normals():
    transformer = KnownTransformer(1.0)
    _, loss = loss_of(transformer)
    schedule = NoiseSchedule().respaced(1000)
    least = schedule.posterior_variances.clone()
    least[0] = least[1]
    ratio = least / schedule.betas
    divergences = 0.5 * (ratio - 1 - ratio.log()) / math.log(2)
    timesteps, _ = transformer.seen[-1]
    assert loss.item() == pytest.approx(divergences[timesteps].mean().item(), rel=1e-4)


def test_the_bound_moves_the_variance_alone():
    """A wrong mean enters the bound, yet the noise learns from its own error only."""
    gradients = []
    for variance in (None, 0.5):
        transformer = KnownTransformer(variance)
        with torch.no_grad():
            transformer.factor.fill_(0.7)
        module, loss = loss_of(transformer)
        loss.backward()
        gradients.append(module.transformer.factor.grad)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)


def test_timesteps_are_stratified_and_labels_dropped_as_often_as_said():
    transformer = KnownTransformer(None)
    labels = torch.randint(3, (1000,), generator=torch.Generator().manual_seed(1))
    loss_of(transformer, num=1000, labels=labels, label_dropout=0.1)
    timesteps, seen = transformer.seen[-1]
    assert torch.equal(timesteps.sort().values, torch.arange(1000))
    assert not torch.equal(timesteps, torch.arange(1000))
    dropped = seen == 3
    assert torch.equal(seen[~dropped], labels[~dropped])
    assert 60 < dropped.sum() < 140  # 100 ± 4 sigma


def test_a_fresh_transformer_answers_zero_and_costs_the_noise_itself():
    generator, again = (torch.Generator().manual_seed(4) for _ in range(2))
    module = training(built())
    latents = torch.rand(8, 1, 4, 4)
    loss = module.loss(latents, torch.zeros(8, dtype=torch.int64), generator=generator)
    torch.randperm(8, generator=again), torch.rand(8, generator=again)
    noise = torch.randn(8, 1, 4, 4, generator=again)
    assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-6)


def test_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    first, second, other = built(0), built(0), built(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert identity_of(first) == identity_of(second) != identity_of(other)
    assert built(learned_variance=True).config.out_channels == 2


def test_the_average_follows_the_weights():
    module = training(built(), ema_decay=0.5)
    before = [value.clone() for value in module.average.parameters()]
    fit(module, list(batches())[:1])
    decay = 2 / 11  # of the first step; the limit 0.5 comes later
    for old, new, kept in zip(
        before, module.transformer.parameters(), module.average.parameters(), strict=True
    ):
        torch.testing.assert_close(kept, decay * old + (1 - decay) * new, rtol=0, atol=1e-6)
        assert not kept.requires_grad
        assert kept.is_leaf


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    through = fit(training(built()), list(batches()), max_epochs=2)
    half = fit(training(built()), list(batches()), save=tmp_path / "half.ckpt")
    resumed = training(built(5))
    fit(resumed, list(batches()), max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert identity_of(resumed.average) == identity_of(through.average)
    assert identity_of(resumed.transformer) == identity_of(through.transformer)
    assert identity_of(half.average) != identity_of(through.average)


def test_it_learns_which_class_is_which():
    """Three constant images: the noise in them is predicted, and worse with a wrong label."""
    labels = torch.arange(24) % 3
    images = (labels / 2)[:, None, None, None].expand(-1, 1, 4, 4)
    module = fit(training(built(hidden=32), num_steps=100, lr=3e-3), [(images, labels)] * 100)
    final = training(module.average, label_dropout=0.0)
    right, wrong = (
        final.loss(images * 2 - 1, said, generator=torch.Generator().manual_seed(0)).item()
        for said in (labels, (labels + 1) % 3)
    )
    assert right < 0.5
    assert right < 0.8 * wrong


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_size": 3}, "latents of 4x4 are not squares of patches of 3"),
        ({"hidden": 18, "heads": 2}, "hidden=18 is not a multiple of 4"),
        ({"hidden": 16, "heads": 3}, "hidden=16 is not a multiple of 4 and of heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        built(**changed)


def test_latents_that_are_not_square_are_refused():
    with pytest.raises(InputError, match="latents of 4x8 are not squares"):
        build_transformer((1, 4, 8), 3, **ARCHITECTURE, generator=torch.Generator())
