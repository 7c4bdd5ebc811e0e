import math

import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.types import InputError

NAMES = ["euclidean", "hyperbolic", "spherical"]


@pytest.mark.parametrize("learned", [True, False])
def test_cost_is_the_weighted_sum_of_squared_distances(draw, device, dtype, learned):
    weights = [0.5, 0.3, 0.2]
    geometry = build_product(
        NAMES, curvature=1.5, weights=weights, learn_weights=learned, learn_curvature=learned
    ).to(device)
    u, v = draw(2, 6, 4, dtype=dtype), draw(2, 5, 4, radius=0.6, dtype=dtype)
    factors = [geometry.factors[name] for name in NAMES]
    pairs = list(zip(weights, factors, strict=True))
    expected = sum(w * f.cdist(u, v).square() for w, f in pairs)
    torch.testing.assert_close(geometry.cost(u, v), expected)
    expected = sum(w * f.dist(f.centroid(u), f.centroid(v)).square() for w, f in pairs)
    torch.testing.assert_close(geometry.centroid_cost(u, v), expected)


@pytest.mark.parametrize("learned", [True, False])
def test_flat_product_is_exactly_mean_matching(draw, device, dtype, learned):
    u, v = draw(2, 6, 4, dtype=dtype), draw(2, 5, 4, dtype=dtype)
    expected = (u.mean(-2) - v.mean(-2)).square().sum(-1)
    alone = build_product(["euclidean"], curvature=1.0, learn_weights=learned).to(device)
    among = build_product(NAMES, curvature=1.0, weights=[1, 0, 0], learn_weights=False).to(device)
    assert torch.equal(alone.centroid_cost(u, v), expected)
    assert torch.equal(among.centroid_cost(u, v), expected)


def test_leading_axes_are_independent_problems(draw, device, dtype):
    geometry = build_product(NAMES, curvature=1.5).to(device)
    u, v = draw(2, 3, 6, 4, dtype=dtype), draw(2, 3, 5, 4, dtype=dtype)
    for function in (geometry.cost, geometry.centroid_cost):
        loop = [[function(u[i, j], v[i, j]) for j in range(3)] for i in range(2)]
        expected = torch.stack([torch.stack(row) for row in loop])
        torch.testing.assert_close(function(u, v), expected)
    assert geometry.radius_penalty(u).shape == (2, 3)


def test_factors_fixed_at_zero_are_never_computed(draw, device, monkeypatch):
    geometry = build_product(NAMES, curvature=1.0, weights=[0.5, 0, 0.5], learn_weights=False)
    geometry.to(device)
    for method in ("squared_distance", "centroid", "embed"):
        monkeypatch.setattr(geometry.factors["hyperbolic"], method, None)
    u = draw(6, 4, dtype=torch.float32)
    assert geometry.cost(u, u).isfinite().all()
    assert geometry.centroid_cost(u, u) == 0
    assert len(geometry.embed(u)) == 2


def test_embedding_puts_the_flat_block_first_and_weighs_by_the_root(draw, device, dtype):
    geometry = build_product(
        ["spherical", "euclidean"], curvature=2.0, weights=[0.75, 0.25], learn_weights=False
    ).to(device)
    u = draw(6, 4, dtype=dtype)
    flat, round_ = geometry.embed(u)
    torch.testing.assert_close(flat, u / 2)
    sphere = geometry.factors["spherical"]
    torch.testing.assert_close(round_, math.sqrt(0.75) * sphere.embed(u))
    ambient = sphere.expmap0(u)  # the embedding is the sphere, moved
    torch.testing.assert_close(sphere.embed(u) - sphere.embed(u)[:1], ambient - ambient[:1])


def test_radius_penalty_is_zero_at_the_radius_of_curvature(draw, device, dtype):
    geometry = build_product(NAMES, curvature={"hyperbolic": 4.0, "spherical": 4.0}).to(device)
    for radius, expected in ((0.5, 0.0), (1.0, 2.0), (0.25, 0.5)):  # two curved factors
        penalty = geometry.radius_penalty(draw(2, 7, 4, radius=radius, dtype=dtype))
        torch.testing.assert_close(penalty, torch.full_like(penalty, expected))


def test_radius_penalty_counts_learned_curvatures_in_use(draw, device):
    u = draw(7, 4, radius=3.0, dtype=torch.float32)
    fixed = build_product(NAMES, curvature=1.0, learn_curvature=False).to(device)
    assert fixed.radius_penalty(u) == 0
    unused = build_product(NAMES, curvature=1.0, weights=[1, 0, 0], learn_weights=False).to(device)
    assert unused.radius_penalty(u) == 0
    one = build_product(NAMES, curvature=1.0, weights=[0.5, 0, 0.5], learn_weights=False).to(device)
    torch.testing.assert_close(one.radius_penalty(u), torch.tensor(4.0, device=device))


def test_entropy_of_the_weights():
    assert build_product(NAMES, curvature=1.0).entropy().item() == pytest.approx(math.log(3))
    certain = build_product(NAMES, curvature=1.0, weights=[0, 0, 1], learn_weights=False)
    assert certain.entropy() == 0


def test_state_names_every_number():
    geometry = build_product(NAMES, curvature=2.0, weights=[0.5, 0.25, 0.25])
    expected = {
        "curvature/hyperbolic": -2.0,
        "curvature/spherical": 2.0,
        "weight/euclidean": 0.5,
        "weight/hyperbolic": 0.25,
        "weight/spherical": 0.25,
    }
    assert geometry.state() == pytest.approx(expected)
    assert all(type(value) is float for value in geometry.state().values())


def test_clamp_reaches_every_factor():
    geometry = build_product(NAMES, curvature=1.0, curvature_range=(0.5, 2.0))
    for name in NAMES[1:]:
        geometry.factors[name].log_magnitude.data.fill_(10.0)
    geometry.clamp_()
    assert geometry.state()["curvature/hyperbolic"] == pytest.approx(-2.0)
    assert geometry.state()["curvature/spherical"] == pytest.approx(2.0)


def test_gradient_of_cost_in_weights_and_curvatures(draw, device):
    geometry = build_product(NAMES, curvature=1.3).double().to(device)
    u = draw(3, 4, dtype=torch.float64).requires_grad_()
    v = draw(2, 4, radius=0.5, dtype=torch.float64).requires_grad_()
    inputs = (u, v, *geometry.parameters())
    assert len(inputs) == 5
    assert torch.autograd.gradcheck(lambda u, v, *_: geometry.cost(u, v), inputs)
    assert torch.autograd.gradcheck(lambda u, v, *_: geometry.centroid_cost(u, v), inputs)


def test_fixed_geometry_has_no_parameters():
    geometry = build_product(NAMES, curvature=1.0, learn_curvature=False, learn_weights=False)
    assert not list(geometry.parameters())
    other = build_product(NAMES, curvature=2.0, learn_curvature=False, learn_weights=False)
    other.load_state_dict(geometry.state_dict())
    assert other.state() == geometry.state()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": ["euclidian"]}, "unknown factor 'euclidian'; choose from euclidean, hyper"),
        ({"factors": []}, "factors is empty"),
        ({"factors": ["hyperbolic_2"]}, "unknown factor 'hyperbolic_2'"),
        ({"curvature": -1.0}, "positive magnitude, got -1.0"),
        ({"curvature": 0.0}, "positive magnitude, got 0.0"),
        ({"curvature": float("nan")}, "positive magnitude, got nan"),
        ({"curvature": 9.0}, "outside curvature_range"),
        ({"curvature": {"spherical": 1.0}}, "no entry for 'hyperbolic'"),
        ({"weights": [1.0]}, "one entry for each of euclidean, hyperbolic, spherical"),
        ({"weights": [1.5, -0.5, 0.0]}, "must not be negative"),
        ({"weights": [float("nan"), 0.5, 0.5]}, "must not be negative"),
        ({"weights": [0.5, 0.5, 0.5]}, "must sum to 1"),
        ({"weights": [1.0, 0.0, 0.0]}, "learned weights must be positive"),
        ({"learning": "both"}, "unknown learning 'both'; choose from fixed, joint, adversarial"),
        ({"skip_below": 1.0}, r"skip_below must lie in \[0, 1\), got 1.0"),
    ],
)
def test_refusals_are_one_line(arguments, message):
    options = {"factors": NAMES, "curvature": 1.0} | arguments
    with pytest.raises(InputError, match=message) as refusal:
        build_product(options.pop("factors"), **options)
    assert "\n" not in str(refusal.value)
