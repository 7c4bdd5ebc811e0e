import ot
import pytest
import torch
from torch import Tensor

from geodm_lightning.guidance import TransportGuidance
from geodm_lightning.types import InputError
from tests.guidance.conftest import guided_step

EVERYWHERE = (0.0, 1.0)
THROUGH = pytest.mark.parametrize("through", ["latent", "clean"])


def points(*rows: list[float]) -> Tensor:
    """Latents ``(1, m, 1, 1, d)`` of a single class."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None, None, :]


def rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def sample_cost(x: Tensor, y: Tensor) -> Tensor:
    """Plain sum of absolute differences, ``(a, d)`` and ``(m, d)``."""
    return (x[:, None] - y[None]).abs().sum(-1)


@pytest.mark.parametrize("num_finished", [0, 1, 6])
def test_push_is_the_gradient_of_the_cost_by_pots_plan(draw, num_finished):
    real, memory, latents = draw(1, 20, 2, 3, 3), draw(1, num_finished, 2, 3, 3), draw(1, 2, 3, 3)
    y = real[0].flatten(1)
    current = latents.flatten(1).requires_grad_()
    cost = sample_cost(torch.cat([memory[0].flatten(1), current]), y)
    plan = ot.sinkhorn(
        [],
        [],
        cost.detach().cpu().numpy(),
        reg=0.05 * cost.mean().item(),
        method="sinkhorn_log",
        numItermax=5000,
        stopThr=1e-12,
    )
    value = (torch.from_numpy(plan).to(cost) * cost).sum()
    (expected,) = torch.autograd.grad(value, current)

    options = {"scale": 0.3, "epsilon": 0.05, "num_iters": 3000}
    raw = TransportGuidance(real, normalise=False, **options)
    unit = TransportGuidance(real, **options)
    for guidance in (raw, unit):
        guidance.begin(memory)
    expected = expected.reshape(latents.shape) * (num_finished + 1)
    torch.testing.assert_close(raw.push(guided_step(latents)), 0.3 * expected)
    expected = 0.3 * expected / rms(expected)[:, None, None, None]
    torch.testing.assert_close(unit.push(guided_step(latents)), expected)
    assert raw.statistics["transport/cost"].item() == pytest.approx(value.item())


@THROUGH
def test_classes_do_not_see_each_other(draw, ground, through):
    real, memory = draw(3, 9, 2, 2, 2), draw(3, 4, 2, 2, 2)
    latents, clean = draw(3, 2, 2, 2), draw(3, 2, 2, 2)
    real[1] *= 100  # costs of another unit
    together = TransportGuidance(real, ground=ground, through=through)
    together.begin(memory)
    push = together.push(guided_step(latents, clean=clean))
    for i in range(3):
        one = slice(i, i + 1)
        alone = TransportGuidance(real[one], ground=ground, through=through)
        alone.begin(memory[one])
        torch.testing.assert_close(
            alone.push(guided_step(latents[one], clean=clean[one])), push[one]
        )
        for key, value in alone.statistics.items():
            torch.testing.assert_close(value, together.statistics[key][one])


def test_sample_is_sent_to_the_mode_that_is_not_covered(draw, ground):
    left, right = draw(1, 10, 1, 2, 4) * 0.1 - 2, draw(1, 10, 1, 2, 4) * 0.1 + 2
    guidance = TransportGuidance(torch.cat([left, right], 1), ground=ground)
    latents = draw(1, 1, 2, 4) * 0.1
    guidance.begin(left[:, :1])
    assert (guidance.push(guided_step(latents)) < 0).all()  # it is subtracted
    guidance.begin(right[:, :1])
    assert (guidance.push(guided_step(latents)) > 0).all()


def test_the_third_sample_makes_up_for_the_first_two():
    real = points([-3, 0], [3, 0], [0, 3])
    guidance = TransportGuidance(real, scale=1.0, epsilon=0.001, num_iters=2000)
    guidance.begin(points([-3, 0], [3, 0]))
    push = guidance.push(guided_step(points([0.5, 0.5])[0]))
    torch.testing.assert_close(push, points([1.0, -1.0])[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("epsilon", [0.02, 1e6])
def test_uniform_plan_pulls_to_the_median_of_each_coordinate(draw, epsilon):
    """Alone at any temperature, and in company at a high one."""
    real = draw(1, 101, 1, 1, 6)
    median = real[0].flatten(1).median(0).values
    guidance = TransportGuidance(real, scale=1.0, epsilon=epsilon)
    if epsilon > 1:
        guidance.begin(draw(1, 7, 1, 1, 6))
    for latents in (draw(1, 1, 1, 6), draw(1, 1, 1, 6)):
        push = guidance.push(guided_step(latents)).flatten()
        assert torch.equal(push.sign(), (latents.flatten() - median).sign())
    assert guidance.statistics["transport/plan_entropy"].item() == pytest.approx(1, abs=1e-6)
    raw = TransportGuidance(real, scale=1.0, normalise=False)
    assert raw.push(guided_step(median.reshape(1, 1, 1, 6))).abs().max() < 1e-12


@THROUGH
def test_push_has_the_size_of_its_scale(draw, ground, through):
    guidance = TransportGuidance(draw(4, 9, 2, 4, 4), scale=0.07, ground=ground, through=through)
    guidance.begin(50 * draw(4, 3, 2, 4, 4))
    push = guidance.push(guided_step(10 * draw(4, 2, 4, 4), clean=draw(4, 2, 4, 4)))
    expected = torch.full_like(rms(push), 0.07)
    torch.testing.assert_close(rms(push), expected)
    torch.testing.assert_close(guidance.statistics["transport/push"], expected)


def test_clean_push_follows_the_prediction_by_the_chain_rule(draw):
    real, latents, clean = draw(1, 9, 1, 2, 2), draw(1, 1, 2, 2), draw(1, 1, 2, 2)
    step = guided_step(latents, clean=clean)
    z = latents.clone().requires_grad_()  # the noise held fixed
    share = step.alpha_cumprod
    predicted = (z - (1 - share) ** 0.5 * step.noise) / share**0.5
    cost = sample_cost(predicted.flatten(1), real[0].flatten(1))
    (expected,) = torch.autograd.grad(cost.mean(), z)  # alone, the plan is uniform
    guidance = TransportGuidance(real, scale=0.5, through="clean", normalise=False)
    torch.testing.assert_close(guidance.push(step), 0.5 * expected)


def test_push_shrinks_the_transported_cost(draw, ground):
    real, memory, latents = draw(2, 30, 1, 4, 4), draw(2, 5, 1, 4, 4), 2 * draw(2, 1, 4, 4)
    guidance = TransportGuidance(real, ground=ground, scale=1e-3)
    guidance.begin(memory)
    costs = []
    for _ in range(50):
        latents = latents - guidance.push(guided_step(latents))
        costs.append(guidance.statistics["transport/cost"])
    assert (torch.stack(costs).diff(dim=0) < 0).all()


def test_statistics_tell_a_sharp_plan_from_a_blurred_one(draw):
    real, memory, latents = draw(2, 12, 1, 3, 3), draw(2, 5, 1, 3, 3), draw(2, 1, 3, 3)
    entropies = []
    for epsilon in (0.02, 0.1, 0.5):
        guidance = TransportGuidance(real, epsilon=epsilon, num_iters=5000)
        guidance.begin(memory)
        guidance.push(guided_step(latents))
        entropies.append(guidance.statistics["transport/plan_entropy"])
        assert (guidance.statistics["transport/marginal_error"] < 1e-3).all()
    sharp, middle, blurred = entropies
    assert (sharp < middle).all()
    assert (middle < blurred).all()
    assert (blurred < 1).all()


def test_statistics_tell_a_plan_that_is_not_solved(draw):
    real, memory, latents = draw(2, 12, 1, 3, 3), draw(2, 5, 1, 3, 3), draw(2, 1, 3, 3)
    errors = []
    for num_iters in (1, 100):
        guidance = TransportGuidance(real, epsilon=0.1, num_iters=num_iters)
        guidance.begin(memory)
        guidance.push(guided_step(latents))
        errors.append(guidance.statistics["transport/marginal_error"])
    assert (errors[0] > 10 * errors[1]).all()


@pytest.mark.parametrize("num_real", [1, 4])
def test_samples_on_real_latents_have_finite_pushes(draw, ground, num_real):
    real = draw(2, num_real, 1, 2, 2)
    guidance = TransportGuidance(real, ground=ground)
    guidance.begin(real[:, :1].expand(-1, 3, -1, -1, -1))
    assert guidance.push(guided_step(real[:, 0])).isfinite().all()
    same = TransportGuidance(torch.zeros_like(real), ground=ground)
    assert torch.equal(
        same.push(guided_step(torch.zeros_like(real[:, 0]))), torch.zeros_like(real[:, 0])
    )


def test_graph_of_the_sampler_is_neither_needed_nor_kept(draw):
    guidance = TransportGuidance(draw(2, 5, 1, 2, 2), through="clean")
    latents = draw(2, 1, 2, 2).requires_grad_()
    push = guidance.push(guided_step(latents, clean=2 * latents))
    assert not push.requires_grad
    assert not guidance.needs_graph(35, 50)


def test_half_precision_latents_are_compared_in_float32(draw):
    real, latents = draw(1, 6, 1, 4, 4).half(), draw(1, 1, 4, 4).float()
    push = TransportGuidance(real).push(guided_step(latents))
    assert push.dtype == torch.float32
    torch.testing.assert_close(push, TransportGuidance(real.float()).push(guided_step(latents)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"num_iters": 0}, "num_iters must be at least 1, got 0"),
        ({"through": "noise"}, "through must be one of latent, clean, got 'noise'"),
        ({"scale": -0.1}, "scale must be at least 0 and finite, got -0.1"),
        (
            {"window": (0.9, 0.6)},
            r"window must be two growing shares in \[0, 1\], got \(0.9, 0.6\)",
        ),
    ],
)
def test_refuses_numbers_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        TransportGuidance(torch.zeros(1, 2, 1, 2, 2), **options)


def test_refuses_latents_that_do_not_fit():
    with pytest.raises(InputError, match=r"at least one of each class, got \(2, 0, 1, 2, 2\)"):
        TransportGuidance(torch.zeros(2, 0, 1, 2, 2))
    guidance = TransportGuidance(torch.zeros(2, 3, 1, 2, 2))
    with pytest.raises(InputError, match=r"memory must hold .*, got \(3, 4, 1, 2, 2\)"):
        guidance.begin(torch.zeros(3, 4, 1, 2, 2))
    with pytest.raises(InputError, match=r"samples must have .*, got \(1, 1, 2, 2\)"):
        guidance.push(guided_step(torch.zeros(1, 1, 2, 2)))
