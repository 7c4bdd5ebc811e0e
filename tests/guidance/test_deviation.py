import pytest
import torch
from torch.nn import functional

from geodm_lightning.guidance import DeviationGuidance
from geodm_lightning.types import InputError
from tests.guidance.conftest import guided_step


def test_push_is_the_gradient_of_the_largest_cosine(draw):
    memory, latents = draw(3, 5, 2, 3, 3), draw(3, 2, 3, 3)
    guidance = DeviationGuidance(scale=7.0)
    guidance.begin(memory)
    push = guidance.push(guided_step(latents))
    for i in range(3):  # class by class, as published
        z = latents[i].flatten().requires_grad_()
        cosines = functional.cosine_similarity(z[None], memory[i].flatten(1))
        (expected,) = torch.autograd.grad(cosines.max(), z)
        torch.testing.assert_close(push[i].flatten(), 7 * expected)
        torch.testing.assert_close(
            guidance.statistics["deviation/similarity"][i], cosines.max().detach()
        )


def test_sample_turns_away_and_keeps_its_length(draw):
    memory, latents = draw(2, 4, 1, 4, 4), draw(2, 1, 4, 4)
    guidance = DeviationGuidance(scale=1e-4)
    guidance.begin(memory)
    push = guidance.push(guided_step(latents))
    assert (push * latents).flatten(1).sum(1).abs().max() < 1e-12
    before = guidance.statistics["deviation/similarity"]
    guidance.push(guided_step(latents - push))
    assert (guidance.statistics["deviation/similarity"] < before).all()


def test_known_answer():
    z = torch.tensor([2.0, 0.0]).reshape(1, 1, 1, 2)
    guidance = DeviationGuidance(scale=4.0)
    guidance.begin(torch.tensor([3.0, 3.0]).reshape(1, 1, 1, 1, 2))
    expected = torch.tensor([0.0, 4 / 2 / 2**0.5]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(guidance.push(guided_step(z)), expected)


def test_only_the_latest_samples_are_remembered(draw):
    latents, fresh = draw(2, 1, 3, 3), draw(2, 2, 1, 3, 3)
    stale = latents[:, None].expand(-1, 4, -1, -1, -1)  # most similar of all
    guidance = DeviationGuidance(capacity=2)
    guidance.begin(torch.cat([stale, fresh], dim=1))
    forgotten = guidance.push(guided_step(latents))
    guidance.begin(fresh)
    assert torch.equal(forgotten, guidance.push(guided_step(latents)))


def test_nothing_is_pushed_without_memory_and_nothing_breaks_at_a_memory(draw):
    latents = draw(2, 1, 3, 3)
    guidance = DeviationGuidance()
    zeros = torch.zeros_like(latents)
    assert torch.equal(guidance.push(guided_step(latents)), zeros)
    guidance.begin(draw(2, 0, 1, 3, 3))
    assert torch.equal(guidance.push(guided_step(latents)), zeros)
    guidance.begin(latents[:, None])
    torch.testing.assert_close(guidance.push(guided_step(latents)), zeros, atol=1e-12, rtol=0)
    assert guidance.push(guided_step(zeros)).isfinite().all()


def test_refuses_what_does_not_fit(draw):
    with pytest.raises(InputError, match="capacity must be at least 1, got 0"):
        DeviationGuidance(capacity=0)
    guidance = DeviationGuidance()
    guidance.begin(draw(2, 3, 1, 3, 3))
    with pytest.raises(InputError, match=r"memory must hold .*, got \(2, 3, 1, 3, 3\)"):
        guidance.push(guided_step(draw(1, 1, 3, 3)))
