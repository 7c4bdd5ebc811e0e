import ot
import pytest
import torch

from geodm_lightning.geometry import Manifold, ProductManifold
from geodm_lightning.matching import TransportMatching, scale_features
from geodm_lightning.transport import plan_contrast
from geodm_lightning.types import InputError

FORMS = [
    {},
    {"ground": "factors"},
    {"ground": "dominant"},
    {"solver": "exact"},
    {"gradient": "implicit", "ground": "factors"},
    {"debiased": True},
    {"debiased": True, "ground": "factors"},
    {"solver": "sliced", "ground": "factors"},
]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


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
    assert (terms.statistics["marginal_error"] <= 1e-3).all()


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_batched_equals_a_loop_over_classes(features, learned, dtype, options):
    real, synthetic = features(dtype)
    matching = TransportMatching(**options)
    batched = matching(scale_features(real, synthetic), learned, generator=generator())
    for i in range(3):
        scaled = scale_features(real[i], synthetic[i])
        single = matching(scaled, learned, generator=generator())
        torch.testing.assert_close(batched.cost[i], single.cost, rtol=1e-3, atol=1e-5)
        for key, part in single.statistics.items():
            torch.testing.assert_close(batched.statistics[key][i], part, rtol=1e-3, atol=1e-5)
        if single.plan is not None:
            torch.testing.assert_close(batched.plan[i], single.plan, rtol=1e-3, atol=1e-5)


def test_statistics_are_those_of_the_plan(features, learned, dtype):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching()(scaled, learned)
    assert list(terms.statistics) == ["plan_entropy", "marginal_error", "plan_contrast"]
    assert not any(value.requires_grad for value in terms.statistics.values())
    torch.testing.assert_close(terms.statistics["plan_contrast"], plan_contrast(terms.plan))
    uniform = TransportMatching(epsilon=1e4)(scaled, learned).statistics["plan_contrast"]
    assert (uniform < 0.01).all()


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
    assert (sharp.statistics["plan_entropy"] < 0.52).all()  # log(n) / log(n^2) for a permutation
    blurred = TransportMatching(epsilon=1e4)(scaled, learned).statistics["plan_entropy"]
    torch.testing.assert_close(blurred, torch.ones_like(blurred))


def test_gradient_treats_the_plan_as_fixed(features, learned):
    real, synthetic = features(torch.float64)
    scaled = scale_features(real, synthetic.requires_grad_())
    terms = TransportMatching()(scaled, learned)
    (gradient,) = torch.autograd.grad(terms.cost.sum(), synthetic, retain_graph=True)
    expected = (terms.plan * learned.cost(scaled.real, scaled.synthetic)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, synthetic)[0])
    assert not terms.plan.requires_grad


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_coincident_features_stay_finite(learned, device, dtype, options):
    same = torch.ones(2, 6, 8, device=device, dtype=dtype)
    synthetic = same[:, :3].clone().requires_grad_()
    scaled = scale_features(same, synthetic)
    terms = TransportMatching(**options)(scaled, learned, generator=generator())
    (gradient,) = torch.autograd.grad(terms.cost.sum(), synthetic)
    assert all(x.isfinite().all() for x in (terms.cost, gradient, *terms.statistics.values()))
    assert (terms.cost < 1e-5).all()


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_geometry_receives_finite_gradients(features, learned, options):
    scaled = scale_features(*features(torch.float32))
    cost = TransportMatching(**options)(scaled, learned, generator=generator()).cost
    gradients = torch.autograd.grad(
        cost.sum(), list(learned.parameters()), materialize_grads=True, allow_unused=True
    )
    assert all(gradient.isfinite().all() for gradient in gradients)
    learns = options.get("ground") != "dominant"  # of equal weights the first, flat one leads
    assert all((gradient != 0).any() == learns for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be positive and finite, got nan"),
        ({"num_iters": 0}, "num_iters must be at least 1, got 0"),
        ({"max_real": 0}, "max_real must be at least 1, got 0"),
        ({"num_slices": 0}, "num_slices must be at least 1, got 0"),
        ({"ground": "sum"}, "ground must be one of product, factors, dominant, got 'sum'"),
        ({"solver": "lp"}, "solver must be one of sinkhorn, exact, sliced, got 'lp'"),
        ({"gradient": "full"}, "gradient must be one of envelope, implicit, got 'full'"),
        ({"debiased": True, "solver": "exact"}, "debiased=true needs solver=sinkhorn"),
        ({"debiased": True, "solver": "sliced"}, "debiased=true needs solver=sinkhorn"),
        ({"gradient": "implicit", "solver": "exact"}, "implicit needs solver=sinkhorn"),
        ({"gradient": "implicit", "debiased": True}, "implicit excludes debiased=true"),
        ({"solver": "sliced"}, "solver=sliced excludes ground=product"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        TransportMatching(**options)


def test_check_refuses_what_only_slices_cannot_do():
    other = type("Other", (Manifold,), dict.fromkeys(Manifold.__abstractmethods__))
    geometry = ProductManifold({"other": other()})
    TransportMatching().check(geometry)
    with pytest.raises(InputError, match="knows no slices of the factor 'other'"):
        TransportMatching(solver="sliced", ground="factors").check(geometry)
