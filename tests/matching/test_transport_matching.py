import ot
import pytest
import torch

from geodm_lightning.geometry import Manifold, ProductManifold, build_product
from geodm_lightning.matching import TransportMatching, scale_features
from geodm_lightning.matching.slices import Slices
from geodm_lightning.transport import (
    exact_cost,
    plan_contrast,
    sinkhorn,
    sinkhorn_divergence,
    sinkhorn_plan,
)
from geodm_lightning.types import InputError

WEIGHTS = [0.2, 0.5, 0.3]
NAMES = ["euclidean", "hyperbolic", "spherical"]
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


@pytest.fixture
def uneven(device, dtype) -> ProductManifold:
    """Three factors of different weights and curvatures, nothing learned."""
    curvature = {"hyperbolic": 1.5, "spherical": 0.5}
    options = {"learn_curvature": False, "learn_weights": False}
    product = build_product(NAMES, curvature=curvature, weights=WEIGHTS, **options)
    return product.to(device, dtype)


def alone(product: ProductManifold, name: str) -> ProductManifold:
    """One factor of a product at full weight."""
    return ProductManifold({name: product.factors[name]}).to(product.weights)


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


@pytest.mark.parametrize("options", [{}, {"solver": "exact"}, {"debiased": True}], ids=str)
def test_ground_of_factors_is_the_weighted_sum_of_factors(features, uneven, dtype, options):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching(ground="factors", **options)(scaled, uneven)
    parts = [TransportMatching(**options)(scaled, alone(uneven, name)) for name in NAMES]
    for key in ("cost", "plan", "plan_entropy", "marginal_error"):
        pairs = zip(WEIGHTS, parts, strict=True)
        expected = sum(weight * getattr(part, key) for weight, part in pairs)
        torch.testing.assert_close(getattr(terms, key), expected, rtol=1e-4, atol=1e-5)
    pairs = zip(WEIGHTS, parts, strict=True)
    expected = sum(weight * part.statistics["plan_contrast"] for weight, part in pairs)
    torch.testing.assert_close(terms.statistics["plan_contrast"], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [{}, {"solver": "exact"}, {"debiased": True}], ids=str)
def test_dominant_ground_is_the_heaviest_factor_alone(features, uneven, dtype, options):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching(ground="dominant", **options)(scaled, uneven)
    expected = TransportMatching(**options)(scaled, alone(uneven, "hyperbolic"))
    torch.testing.assert_close(terms.cost, expected.cost)
    torch.testing.assert_close(terms.plan, expected.plan)


def test_one_factor_makes_all_grounds_one(features, uneven, dtype):
    scaled, one = scale_features(*features(dtype)), alone(uneven, "spherical")
    costs = [TransportMatching(ground=g)(scaled, one).cost for g in ("factors", "dominant")]
    for cost in costs:
        torch.testing.assert_close(cost, TransportMatching()(scaled, one).cost)


def test_own_plans_cost_no_more_than_one_for_all(features, uneven, dtype):
    scaled = scale_features(*features(dtype))
    shared = TransportMatching(solver="exact")(scaled, uneven).cost
    own = TransportMatching(solver="exact", ground="factors")(scaled, uneven)
    assert (own.cost <= shared + 1e-6).all()
    assert (own.cost < shared - 1e-4).any()
    torch.testing.assert_close(own.plan.sum(-1), torch.full_like(own.plan[..., 0], 1 / 12))


def test_exact_is_the_least_cost(features, uneven, dtype):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching(solver="exact")(scaled, uneven)
    expected = exact_cost(uneven.cost(scaled.real, scaled.synthetic))
    torch.testing.assert_close(terms.cost, expected)
    assert (terms.cost <= TransportMatching()(scaled, uneven).cost + 1e-6).all()
    torch.testing.assert_close(terms.marginal_error, 0 * terms.cost, rtol=0, atol=1e-5)


def test_implicit_gradient_follows_the_plan(features, learned):
    real, synthetic = features(torch.float64)
    scaled = scale_features(real, synthetic.requires_grad_())
    options = {"epsilon": 0.2, "num_iters": 1000}
    terms = TransportMatching(gradient="implicit", **options)(scaled, learned)
    fixed = TransportMatching(**options)(scaled, learned)
    torch.testing.assert_close(terms.cost, fixed.cost)
    cost = learned.cost(scaled.real, scaled.synthetic)
    epsilon = 0.2 * cost.detach().mean((-2, -1))
    expected = (sinkhorn_plan(cost, epsilon=epsilon, num_iters=1000) * cost).sum()
    implicit, envelope, reference = (
        torch.autograd.grad(value, synthetic, retain_graph=True)[0]
        for value in (terms.cost.sum(), fixed.cost.sum(), expected)
    )
    torch.testing.assert_close(implicit, reference)
    assert (implicit - envelope).norm() > 1e-2 * envelope.norm()
    assert not terms.plan.requires_grad


def test_debiased_is_the_divergence_at_the_temperature_between_the_sets(features, uneven, dtype):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching(debiased=True, epsilon=0.5)(scaled, uneven)
    for i in range(3):
        real, synthetic = scaled.real[i], scaled.synthetic[i]
        pairs = [(real, synthetic), (real, real), (synthetic, synthetic)]
        costs = [uneven.cost(u, v) for u, v in pairs]
        epsilon = 0.5 * costs[0].mean().item()
        expected = sinkhorn_divergence(*costs, epsilon=epsilon, num_iters=50)
        torch.testing.assert_close(terms.cost[i], expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(terms.plan, TransportMatching(epsilon=0.5)(scaled, uneven).plan)


@pytest.mark.parametrize("ground", ["product", "factors"])
def test_only_the_debiased_cost_of_equal_sets_is_zero_and_flat(features, learned, ground):
    real, _ = features(torch.float64)
    options = {"epsilon": 0.5, "num_iters": 500, "ground": ground}
    for debiased, least in ((True, 0.0), (False, 1e-2)):
        synthetic = real.flip(1).clone().requires_grad_()
        scaled = scale_features(real, synthetic)
        cost = TransportMatching(debiased=debiased, **options)(scaled, learned).cost.sum()
        (gradient,) = torch.autograd.grad(cost, synthetic)
        for size in (cost.item(), gradient.norm().item()):
            assert size == pytest.approx(0, abs=1e-6) if debiased else size > least


def test_debiased_error_is_the_worst_of_the_three_problems(features, uneven, dtype):
    scaled = scale_features(*features(dtype, 12, 1))  # all plans to one point are converged
    few = {"epsilon": 0.1, "num_iters": 2}
    assert (TransportMatching(**few)(scaled, uneven).marginal_error < 1e-5).all()
    error = TransportMatching(debiased=True, **few)(scaled, uneven).marginal_error
    between = uneven.cost(scaled.real, scaled.synthetic).mean((-2, -1))
    within = uneven.cost(scaled.real, scaled.real)
    expected = sinkhorn(within, epsilon=0.1 * between, num_iters=2).marginal_error
    torch.testing.assert_close(error, expected, rtol=1e-3, atol=1e-6)
    assert (error > 1e-3).any()


def test_sliced_is_the_weighted_sum_over_factors_without_a_plan(features, uneven, dtype):
    scaled = scale_features(*features(dtype))
    matching = TransportMatching(solver="sliced", ground="factors", num_slices=7, max_real=6)
    terms = matching(scaled, uneven, generator=generator())
    costs = Slices(7).costs(uneven, scaled.real[:, :6], scaled.synthetic, generator=generator())
    expected = sum(weight * cost for weight, cost in zip(WEIGHTS, costs, strict=True))
    torch.testing.assert_close(terms.cost, expected)
    assert terms.plan is None
    assert terms.statistics == {}
    dominant = TransportMatching(solver="sliced", ground="dominant", num_slices=7, max_real=6)
    terms = dominant(scaled, uneven, generator=generator())
    torch.testing.assert_close(terms.cost, costs[1])


def test_sliced_needs_a_generator(features, learned):
    matching = TransportMatching(solver="sliced", ground="factors")
    with pytest.raises(AssertionError, match="pass a generator"):
        matching(scale_features(*features(torch.float32)), learned)


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
