import math

import ot
import pytest
import torch

from geodm_lightning.matching import TransportMatching, scale_features
from geodm_lightning.matching.transport import relative_entropy
from geodm_lightning.types import InputError


def test_agrees_with_pot_class_by_class(features, learned):
    scaled = scale_features(*features(torch.float64))
    terms = TransportMatching(num_iters=2000)(scaled, learned)
    for i in range(3):
        cost = learned.cost(scaled.real[i], scaled.synthetic[i]).detach().cpu().numpy()
        options = {"reg": 0.05 * cost.mean(), "method": "sinkhorn_log", "numItermax": 10_000}
        plan = torch.as_tensor(ot.sinkhorn([], [], cost, **options)).to(terms.plan)
        torch.testing.assert_close(terms.plan[i], plan, rtol=0, atol=1e-7)
        expected = (plan * torch.as_tensor(cost).to(plan)).sum()
        torch.testing.assert_close(terms.cost[i], expected, rtol=1e-5, atol=0)


def test_marginals_hold_at_the_defaults(rng, device, dtype, learned):
    options = {"generator": rng, "device": device, "dtype": dtype}
    real = torch.randn(2, 256, 64, **options).relu()  # features after a ReLU, CIFAR-like counts
    synthetic = torch.randn(2, 40, 64, **options).relu()
    terms = TransportMatching()(scale_features(real, synthetic), learned)
    assert (terms.marginal_error <= 1e-3).all()


def test_batched_equals_a_loop_over_classes(features, learned, dtype):
    real, synthetic = features(dtype)
    matching = TransportMatching()
    batched = matching(scale_features(real, synthetic), learned)
    for i in range(3):
        single = matching(scale_features(real[i], synthetic[i]), learned)
        for whole, part in zip(batched, single, strict=True):
            torch.testing.assert_close(whole[i], part, rtol=1e-4, atol=1e-5)


def test_only_the_first_real_samples_are_transported(features, learned, dtype):
    scaled = scale_features(*features(dtype))
    short = scaled._replace(real=scaled.real[:, :4])
    terms = TransportMatching(max_real=4)(scaled, learned)
    assert terms.plan.shape == (3, 4, 5)
    torch.testing.assert_close(terms.cost, TransportMatching()(short, learned).cost)


def test_unit_of_the_features_does_not_matter(features, learned, dtype):
    real, synthetic = features(dtype)
    one = TransportMatching()(scale_features(real, synthetic), learned).cost
    other = TransportMatching()(scale_features(30 * real, 30 * synthetic), learned).cost
    torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


def test_permuted_copies_cost_nothing_at_low_temperature(features, learned, dtype):
    real, _ = features(dtype)
    scaled = scale_features(real, real.flip(1))
    sharp = TransportMatching(epsilon=0.01, num_iters=200)(scaled, learned)
    assert (sharp.cost < 1e-3).all()
    assert (sharp.plan_entropy < 0.52).all()  # log(n) / log(n^2) for a permutation
    blurred = TransportMatching(epsilon=1e4)(scaled, learned)
    torch.testing.assert_close(blurred.plan_entropy, torch.ones_like(blurred.plan_entropy))


def test_gradient_treats_the_plan_as_fixed(features, learned):
    real, synthetic = features(torch.float64)
    scaled = scale_features(real, synthetic.requires_grad_())
    terms = TransportMatching()(scaled, learned)
    (gradient,) = torch.autograd.grad(terms.cost.sum(), synthetic, retain_graph=True)
    expected = (terms.plan * learned.cost(scaled.real, scaled.synthetic)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, synthetic)[0])
    assert not terms.plan.requires_grad
    assert not terms.plan_entropy.requires_grad


def test_coincident_features_stay_finite(learned, device, dtype):
    same = torch.ones(2, 6, 8, device=device, dtype=dtype)
    synthetic = same[:, :3].clone().requires_grad_()
    terms = TransportMatching()(scale_features(same, synthetic), learned)
    (gradient,) = torch.autograd.grad(terms.cost.sum(), synthetic)
    assert all(member.isfinite().all() for member in (*terms, gradient))
    assert (terms.cost < 1e-5).all()


def test_relative_entropy_of_known_plans(device, dtype):
    uniform = torch.full((2, 3, 4), 1 / 12, device=device, dtype=dtype)
    torch.testing.assert_close(relative_entropy(uniform), torch.ones_like(uniform[:, 0, 0]))
    diagonal = torch.eye(4, device=device, dtype=dtype) / 4
    assert relative_entropy(diagonal).item() == pytest.approx(math.log(4) / math.log(16))
    assert relative_entropy(torch.ones(1, 1, device=device, dtype=dtype)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be positive and finite, got nan"),
        ({"num_iters": 0}, "num_iters must be at least 1, got 0"),
        ({"max_real": 0}, "max_real must be at least 1, got 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        TransportMatching(**options)
