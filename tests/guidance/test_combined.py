import pytest
import torch
from torch import nn

from geodm_lightning.guidance import (
    CombinedGuidance,
    DeviationGuidance,
    InfluenceGuidance,
    TransportGuidance,
)
from geodm_lightning.types import DenoisingStep, InputError
from tests.guidance.conftest import guided_step


@pytest.fixture
def influence(draw) -> InfluenceGuidance:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().to(draw(0).device)
    labels = torch.tensor([0, 2], device=draw(0).device)
    return InfluenceGuidance([network], [draw(2, 15)], decode=torch.sinh, labels=labels)


def graph_step(latents) -> DenoisingStep:
    z = latents.clone().requires_grad_()
    return guided_step(z, clean=2 * z)


def test_combination_is_the_sum_of_its_members(draw, influence):
    members = [TransportGuidance(draw(2, 6, 1, 2, 2)), DeviationGuidance(scale=0.5), influence]
    combined, memory = CombinedGuidance(members), draw(2, 3, 1, 2, 2)
    latents = draw(2, 1, 2, 2)
    combined.begin(memory)
    push = combined.push(graph_step(latents))
    statistics = dict(combined.statistics)
    expected = torch.zeros_like(latents)
    for member in members:
        member.begin(memory)
        expected += member.push(graph_step(latents))
    torch.testing.assert_close(push, expected)
    assert not push.requires_grad
    assert {key.partition("/")[0] for key in statistics} == {"transport", "deviation", "influence"}
    assert combined.needs_graph(35, 50)
    assert not combined.needs_graph(29, 50)
    assert not CombinedGuidance(members[:2]).needs_graph(35, 50)


def test_an_empty_combination_pushes_nothing(draw):
    nothing, latents = CombinedGuidance([]), draw(2, 1, 2, 2)
    nothing.begin(draw(2, 0, 1, 2, 2))
    assert torch.equal(nothing.push(guided_step(latents)), torch.zeros_like(latents))
    assert not nothing.needs_graph(35, 50)


def test_refuses_two_walks_through_one_graph(influence):
    combined = CombinedGuidance([influence, influence])
    assert not combined.needs_graph(0, 50)
    with pytest.raises(InputError, match=r"2 guidances differentiate .* at step 35 of 50"):
        combined.needs_graph(35, 50)


@pytest.mark.parametrize(
    ("window", "num_steps", "expected"),
    [
        ((0.6, 0.9), 50, range(30, 46)),  # IGD's and DMGD's
        ((0.6, 0.9), 250, range(150, 226)),
        ((0.6, 0.9), 10, range(6, 10)),
        ((0.0, 1.0), 10, range(10)),
        ((0.5, 0.5), 10, range(5, 6)),
    ],
)
def test_window_is_a_share_of_the_schedule(draw, window, num_steps, expected):
    real, latents = draw(1, 3, 1, 2, 2), draw(1, 1, 2, 2)
    guidance = TransportGuidance(real, window=window)
    steps = [DenoisingStep(i, num_steps, latents, latents, latents, 0.5) for i in range(num_steps)]
    guided = [step.index for step in steps if guidance.push(step).any()]
    assert guided == list(expected)


def test_scale_of_zero_is_no_guidance(draw, influence):
    memory, latents = draw(2, 3, 1, 2, 2), draw(2, 1, 2, 2)
    for guidance in (
        TransportGuidance(draw(2, 6, 1, 2, 2), scale=0.0),
        DeviationGuidance(scale=0.0),
    ):
        guidance.begin(memory)
        assert torch.equal(guidance.push(guided_step(latents)), torch.zeros_like(latents))
