import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geodm_lightning.guidance import InfluenceGuidance, class_gradients, sample_gradients
from geodm_lightning.types import DenoisingStep, InputError
from tests.guidance.conftest import guided_step

LABELS = [2, 0, 3]


@pytest.fixture
def surrogates(draw) -> list[nn.Module]:
    """Two small networks with smooth layers, instance norm among them."""

    def build() -> nn.Module:
        layers = [nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.Tanh(), nn.AvgPool2d(2)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4)).double()
        for parameter in network.parameters():
            parameter.data = 0.5 * draw(*parameter.shape).cpu()
        return network

    return [build().to(draw(0).device) for _ in range(2)]


def decode(latents: Tensor) -> Tensor:
    """A decoder with a slope of its own everywhere."""
    return torch.sinh(latents)


def denoised(z: Tensor) -> Tensor:
    """A prediction of the clean sample that mixes the pixels of a sample."""
    return z + 0.3 * z.flip(-1) ** 2


def step_with_graph(latents: Tensor) -> DenoisingStep:
    z = latents.clone().requires_grad_()
    return guided_step(z, clean=denoised(z))


def build_guidance(surrogates, gradients, rows: slice = slice(None), **options):
    labels = torch.tensor(LABELS, device=gradients[0].device)[rows]
    own = [gradient[rows] for gradient in gradients]
    return InfluenceGuidance(surrogates, own, decode=decode, labels=labels, **options)


@pytest.fixture
def gradients(draw, surrogates) -> list[Tensor]:
    width = sum(parameter.numel() for parameter in surrogates[0].parameters())
    return [draw(3, width) for _ in surrogates]


def parameter_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy, flattened, by plain autograd."""
    loss = functional.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_push_is_that_of_the_published_loop(draw, surrogates, gradients):
    """One class at a time, one backward pass through everything for each surrogate."""
    latents = draw(3, 1, 4, 4)
    guidance = build_guidance(surrogates, gradients, scale=5.0)
    step = step_with_graph(latents)
    push = guidance.push(step)
    assert not push.requires_grad
    for i, label in enumerate(LABELS):
        z = latents[i : i + 1].clone().requires_grad_()
        total, mean_distance = torch.zeros_like(z), 0.0
        for network, real in zip(surrogates, gradients, strict=True):
            target = torch.tensor([label], device=z.device)
            own = parameter_gradient(network, decode(denoised(z)), target)
            distance = 1 - functional.cosine_similarity(own, real[i], dim=0)
            total += torch.autograd.grad(distance / 2, z)[0]
            mean_distance += distance.item() / 2
        size = step.noise[i].square().mean().sqrt() * (1 - step.alpha_cumprod) ** 0.5
        expected = 5 * 0.0015 * size * total / total.square().mean().sqrt()
        torch.testing.assert_close(push[i : i + 1], expected.detach())
        found = guidance.statistics["influence/distance"][i].item()
        assert found == pytest.approx(mean_distance)


def test_classes_do_not_see_each_other(draw, surrogates, gradients):
    latents = draw(3, 1, 4, 4)
    together = build_guidance(surrogates, gradients)
    push = together.push(step_with_graph(latents))
    for i in range(3):
        one = slice(i, i + 1)
        alone = build_guidance(surrogates, gradients, one)
        torch.testing.assert_close(alone.push(step_with_graph(latents[one])), push[one])
        for key, value in alone.statistics.items():
            torch.testing.assert_close(value, together.statistics[key][one])


def test_following_the_push_brings_the_gradients_together(draw, surrogates, gradients):
    guidance = build_guidance(surrogates, gradients, scale=1.0)
    latents, distances = draw(3, 1, 4, 4), []
    for _ in range(20):
        latents = latents - guidance.push(step_with_graph(latents))
        distances.append(guidance.statistics["influence/distance"])
    assert (torch.stack(distances).diff(dim=0) < 0).all()


def test_push_vanishes_where_the_gradients_agree(draw, surrogates):
    latents = draw(3, 1, 4, 4)
    labels = torch.tensor(LABELS, device=latents.device)
    images = decode(denoised(latents))
    own = [sample_gradients(network, images, labels) for network in surrogates]
    guidance = build_guidance(surrogates, own)
    push = guidance.push(step_with_graph(latents))
    assert push.isfinite().all()
    assert guidance.statistics["influence/distance"].abs().max() < 1e-12


def test_sample_gradients_are_those_of_single_images(draw, surrogates):
    images = draw(3, 1, 4, 4)
    labels = torch.tensor(LABELS, device=images.device)
    actual = sample_gradients(surrogates[0], images, labels)
    for i in range(3):
        one = slice(i, i + 1)
        expected = parameter_gradient(surrogates[0], images[one], labels[one])
        torch.testing.assert_close(actual[i], expected.detach())


@pytest.mark.parametrize("batch", [1, 4, 12])
def test_class_gradients_are_those_of_the_mean_loss_of_a_class(draw, surrogates, batch):
    images = draw(12, 1, 4, 4)
    targets = torch.tensor([0, 2, 1, 3, 3, 3, 2, 0, 2, 3, 1, 0], device=images.device)
    labels = torch.tensor(LABELS, device=images.device)
    batches = zip(images.split(batch), targets.split(batch), strict=True)
    actual = class_gradients(surrogates[0], batches, labels=labels)
    for row, label in enumerate(LABELS):
        own = targets == label
        expected = parameter_gradient(surrogates[0], images[own], targets[own])
        torch.testing.assert_close(actual[row], expected.detach())


def test_graph_is_asked_for_in_the_window_alone(surrogates, gradients):
    guidance = build_guidance(surrogates, gradients)
    wanted = [index for index in range(50) if guidance.needs_graph(index, 50)]
    assert wanted == list(range(30, 46))
    off = build_guidance(surrogates, gradients, scale=0.0)
    assert not any(off.needs_graph(index, 50) for index in range(50))


def test_refuses_what_does_not_fit(draw, surrogates, gradients):
    guidance = build_guidance(surrogates, gradients)
    with pytest.raises(InputError, match=r"needs the graph from step\.latents to step\.clean"):
        guidance.push(guided_step(draw(3, 1, 4, 4)))
    with pytest.raises(InputError, match="a real gradient for each, got 2 and 1"):
        build_guidance(surrogates, gradients[:1])
    with pytest.raises(InputError, match=r"must have shape \(3, 88\).* got \(3, 87\)"):
        build_guidance(surrogates, [gradient[:, 1:] for gradient in gradients])
    labels = torch.tensor([1, 3], device=gradients[0].device)
    batches = [(draw(2, 1, 4, 4), torch.tensor([1, 1], device=labels.device))]
    with pytest.raises(InputError, match="no real image of class 3 was given"):
        class_gradients(surrogates[0], batches, labels=labels)
