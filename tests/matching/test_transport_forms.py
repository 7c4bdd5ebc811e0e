import pytest
import torch

from geodm_lightning.geometry import ProductManifold, build_product
from geodm_lightning.matching import TransportMatching, scale_features
from geodm_lightning.matching.slices import Slices
from geodm_lightning.transport import exact_cost, sinkhorn, sinkhorn_divergence, sinkhorn_plan

WEIGHTS = [0.2, 0.5, 0.3]
NAMES = ["euclidean", "hyperbolic", "spherical"]


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


@pytest.mark.parametrize("options", [{}, {"solver": "exact"}, {"debiased": True}], ids=str)
def test_ground_of_factors_is_the_weighted_sum_of_factors(features, uneven, dtype, options):
    scaled = scale_features(*features(dtype))
    terms = TransportMatching(ground="factors", **options)(scaled, uneven)
    parts = [TransportMatching(**options)(scaled, alone(uneven, name)) for name in NAMES]
    for key in ("cost", "plan"):
        pairs = zip(WEIGHTS, parts, strict=True)
        expected = sum(weight * getattr(part, key) for weight, part in pairs)
        torch.testing.assert_close(getattr(terms, key), expected, rtol=1e-4, atol=1e-5)
    for key, found in terms.statistics.items():
        pairs = zip(WEIGHTS, parts, strict=True)
        expected = sum(weight * part.statistics[key] for weight, part in pairs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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
    error = terms.statistics["marginal_error"]
    torch.testing.assert_close(error, 0 * terms.cost, rtol=0, atol=1e-5)


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
    biased = TransportMatching(**few)(scaled, uneven)
    assert (biased.statistics["marginal_error"] < 1e-5).all()
    terms = TransportMatching(debiased=True, **few)(scaled, uneven)
    error = terms.statistics["marginal_error"]
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
