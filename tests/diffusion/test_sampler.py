import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.types import InputError

from .conftest import GaussianTransformer

KINDS = ["ddpm", "ddim"]
LABELS = torch.tensor([0, 2, 1])


class Push:
    """Pushes by a multiple of what it is shown and keeps the steps it saw."""

    def __init__(self, amount, *, graph=False, at=None):
        self.amount = amount
        self.graph = graph
        self.at = at
        self.steps = []

    def needs_graph(self, index, num_steps):
        return self.graph

    def push(self, step):
        self.steps.append(step)
        return step.clean * 0 + (self.amount if self.at in (None, step.index) else 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_samples_alone(make_transformer, generators, kind):
    sampler = Sampler(Denoiser(make_transformer()), num_steps=6, kind=kind)
    together = sampler.sample(LABELS, generators=generators(3))
    for index, generator in enumerate(generators(3)):
        alone = sampler.sample(LABELS[index : index + 1], generators=[generator])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_data_come_back_with_their_mean_and_variance(generators, kind):
    means, deviation = torch.tensor([-1.0, 0.5, 0.0, 0.0], dtype=torch.float64), 0.3
    transformer = GaussianTransformer(means, deviation)
    sampler = Sampler(Denoiser(transformer, guidance_scale=1), num_steps=200, kind=kind)
    labels = torch.arange(2).repeat_interleave(150)
    samples = sampler.sample(labels, generators=generators(300)).reshape(2, -1)
    torch.testing.assert_close(samples.mean(1), means[:2], rtol=0, atol=0.03)  # 4.9 sigma
    torch.testing.assert_close(samples.std(1), torch.full_like(means[:2], 0.3), rtol=0.06, atol=0)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_ancestral_sampling_is_that_of_diffusers(make_transformer, generators, learned_variance):
    transformer = make_transformer(learned_variance=learned_variance, dtype=torch.float32)
    sampler = Sampler(Denoiser(transformer, guidance_scale=1), num_steps=50)
    found = sampler.sample(LABELS[1:2], generators=generators(1))

    reference = DDPMScheduler(
        variance_type="learned_range" if learned_variance else "fixed_small", clip_sample=False
    )
    timesteps = sampler.schedule.timesteps[::-1]
    reference.set_timesteps(timesteps=list(timesteps))
    (generator,) = generators(1)
    latents = torch.randn(1, 4, 4, 4, generator=generator)
    with torch.no_grad():
        for timestep in timesteps:
            answer = transformer(
                latents, timestep=torch.tensor([timestep]), class_labels=LABELS[1:2]
            )
            latents = reference.step(
                answer.sample, timestep, latents, generator=generator
            ).prev_sample
    torch.testing.assert_close(found, latents, rtol=2e-3, atol=2e-3 * latents.abs().max().item())


def test_implicit_sampling_is_that_of_diffusers(make_transformer, generators):
    """With 28 steps the spacing is a whole number, 37, and diffusers agrees on it."""
    transformer = make_transformer(learned_variance=False, dtype=torch.float32)
    sampler = Sampler(Denoiser(transformer, guidance_scale=1), num_steps=28, kind="ddim")
    found = sampler.sample(LABELS[:1], generators=generators(1))

    reference = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    reference.num_inference_steps = 27  # whose stride, 1000 // 27, is 37
    latents = torch.randn(1, 4, 4, 4, generator=generators(1)[0])
    with torch.no_grad():
        for timestep in sampler.schedule.timesteps[::-1]:
            answer = transformer(
                latents, timestep=torch.tensor([timestep]), class_labels=LABELS[:1]
            )
            latents = reference.step(answer.sample, timestep, latents).prev_sample
    torch.testing.assert_close(found, latents, rtol=2e-3, atol=2e-3 * latents.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("graph", [False, True])
def test_zero_guidance_is_no_guidance_bit_for_bit(make_transformer, generators, kind, graph):
    sampler = Sampler(Denoiser(make_transformer()), num_steps=5, kind=kind)
    plain = sampler.sample(LABELS, generators=generators(3))
    guided = sampler.sample(LABELS, generators=generators(3), guidance=Push(0.0, graph=graph))
    assert torch.equal(plain, guided)


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_is_subtracted_from_the_result_of_its_step(make_transformer, generators, kind):
    sampler = Sampler(Denoiser(make_transformer()), num_steps=5, kind=kind)
    plain = sampler.sample(LABELS, generators=generators(3))
    last = sampler.sample(LABELS, generators=generators(3), guidance=Push(0.25, at=0))
    torch.testing.assert_close(last, plain - 0.25, rtol=0, atol=1e-12)
    observed, pushed = Push(0.0), Push(0.25, at=3)
    for guidance in (observed, pushed):
        sampler.sample(LABELS, generators=generators(3), guidance=guidance)
    before, after = observed.steps[2].latents, pushed.steps[2].latents
    torch.testing.assert_close(after, before - 0.25, rtol=0, atol=1e-12)


def test_guidance_sees_every_step_and_what_the_model_says(make_transformer, generators):
    sampler = Sampler(Denoiser(make_transformer()), num_steps=5)
    guidance = Push(0.0)
    samples = sampler.sample(LABELS, generators=generators(3), guidance=guidance)
    assert [step.index for step in guidance.steps] == [4, 3, 2, 1, 0]
    assert {step.num_steps for step in guidance.steps} == {5}
    kept = NoiseSchedule().respaced(5).alphas_cumprod
    for step in guidance.steps:
        assert step.alpha_cumprod == kept[step.index].item()
        share = step.alpha_cumprod
        again = share**0.5 * step.clean + (1 - share) ** 0.5 * step.noise
        torch.testing.assert_close(again, step.latents, rtol=1e-9, atol=1e-9)
        assert not any(tensor.requires_grad for tensor in step[2:5])
    # The last step goes to the clean samples and adds no noise.
    torch.testing.assert_close(samples, guidance.steps[-1].clean, rtol=0, atol=1e-12)


def test_guidance_may_differentiate_through_the_model(make_transformer, generators):
    """Also where the caller wants no gradients, as Lightning does while it predicts."""

    class Slope(Push):
        def push(self, step):
            (gradient,) = torch.autograd.grad(step.clean.square().sum(), step.latents)
            self.steps.append(gradient)
            return 1e-3 * gradient

    sampler = Sampler(Denoiser(make_transformer()), num_steps=4)
    guidance = Slope(0.0, graph=True)
    with torch.inference_mode():
        samples = sampler.sample(LABELS, generators=generators(3), guidance=guidance)
    assert not samples.requires_grad
    assert len(guidance.steps) == 4
    assert all(gradient.abs().min() > 0 for gradient in guidance.steps)
    assert all(each.grad is None for each in sampler.denoiser.parameters())


@pytest.mark.parametrize(
    ("labels", "num", "message"),
    [
        ([0, 1], 3, "2 labels and 3 generators"),
        ([], 0, "0 labels"),
        ([0, 3], 2, "labels 0 to 3 are not among the 3 classes"),
        ([-1, 0], 2, "labels -1 to 0 are not among"),
    ],
)
def test_wrong_batches_are_refused(make_transformer, generators, labels, num, message):
    sampler = Sampler(Denoiser(make_transformer()), num_steps=2)
    labels = torch.tensor(labels, dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        sampler.sample(labels, generators=generators(num))


def test_unknown_samplers_are_refused(make_transformer):
    with pytest.raises(InputError, match="sampler heun is not one of ddpm, ddim"):
        Sampler(Denoiser(make_transformer()), kind="heun")
