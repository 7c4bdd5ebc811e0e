import pytest
import torch

from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.types import InputError

LABELS = torch.tensor([0, 2])


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)


def output(transformer, latents, labels):
    timesteps = torch.full((len(latents),), 300)
    return transformer(latents, timestep=timesteps, class_labels=labels).sample


@pytest.mark.parametrize(("channels", "guided"), [(3, 3), (None, 4), (1, 1), (9, 4)])
def test_guidance_extrapolates_the_leading_channels(make_transformer, latents, channels, guided):
    transformer = make_transformer()
    denoiser = Denoiser(transformer, guidance_scale=4.0, guided_channels=channels)
    noise, variance = denoiser.predict(latents, 300, LABELS)
    conditional = output(transformer, latents, LABELS)
    unconditional = output(transformer, latents, torch.tensor([3, 3]))
    far = unconditional + 4 * (conditional - unconditional)
    torch.testing.assert_close(noise[:, :guided], far[:, :guided], rtol=0, atol=1e-12)
    torch.testing.assert_close(noise[:, guided:], conditional[:, guided:4], rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, (conditional[:, 4:] + 1) / 2, rtol=0, atol=1e-12)


def test_scale_one_asks_the_classes_alone(make_transformer, latents):
    transformer = make_transformer(learned_variance=False)
    rows = []
    transformer.register_forward_hook(lambda _, __, answer: rows.append(len(answer.sample)))
    noise, variance = Denoiser(transformer, guidance_scale=1).predict(latents, 300, LABELS)
    assert rows == [2]
    assert variance is None
    assert torch.equal(noise, output(transformer, latents, LABELS))


def test_scale_zero_forgets_the_classes(make_transformer, latents):
    denoiser = Denoiser(make_transformer(), guidance_scale=0, guided_channels=None)
    one, other = (denoiser.predict(latents, 300, labels).noise for labels in (LABELS, LABELS - 0))
    moved = denoiser.predict(latents, 300, torch.tensor([1, 1])).noise
    assert torch.equal(one, other)
    torch.testing.assert_close(one, moved, rtol=0, atol=1e-12)


def test_predictions_are_differentiable_in_the_samples(make_transformer, latents):
    denoiser = Denoiser(make_transformer())
    latents = latents[:1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: denoiser.predict(x, 300, LABELS[:1]).noise.square().sum(), (latents,)
    )
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_running_blocks_twice_changes_no_gradient(make_transformer, latents):
    gradients = []
    for checkpointing in (False, True):
        denoiser = Denoiser(make_transformer(), checkpointing=checkpointing)
        points = latents.clone().requires_grad_()
        denoiser.predict(points, 300, LABELS).noise.square().sum().backward()
        gradients.append(points.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_sixteen_bits_answer_in_float32(make_transformer, latents):
    latents = latents.float()
    full, half = (
        Denoiser(make_transformer(dtype=torch.float32), precision=precision, guidance_scale=2.0)
        for precision in ("32-true", "bf16-mixed")
    )
    expected, found = (each.predict(latents, 300, LABELS).noise for each in (full, half))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_it_never_trains(make_transformer, latents):
    """In training mode diffusers would drop a tenth of 64 labels at random."""
    denoiser = Denoiser(make_transformer()).train()
    many, labels = latents.repeat(32, 1, 1, 1), LABELS.repeat(32)
    first, second = (denoiser.predict(many, 300, labels).noise for _ in range(2))
    assert torch.equal(first, second)


def test_it_tells_what_its_transformer_is(make_transformer):
    denoiser = Denoiser(make_transformer(channels=1, learned_variance=False))
    assert denoiser.latent_shape == (1, 4, 4)
    assert denoiser.num_classes == 3
    assert not denoiser.learns_variance
    assert Denoiser(make_transformer()).learns_variance


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guided_channels": 0}, "guided_channels=0"),
        ({"precision": "16-mixed"}, "precision=16-mixed is not one of"),
    ],
)
def test_wrong_settings_are_refused(make_transformer, wrong, message):
    with pytest.raises(InputError, match=message):
        Denoiser(make_transformer(), **wrong)
