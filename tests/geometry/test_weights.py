"""Who takes part in a product, with what weight, and what of it is learned."""

import math

import pytest
import torch

from geodm_lightning.geometry import build_product

NAMES = ["euclidean", "hyperbolic", "spherical"]


def shrink(geometry, name, weight):
    """Give a factor this share of the weights; the others keep their proportions."""
    share = geometry.weights.detach().clone()
    i = list(geometry.factors).index(name)
    share[i] = 0
    share = share / share.sum() * (1 - weight)
    share[i] = weight
    geometry.weight_logits.data.copy_(share.log().clamp(min=-50))


@pytest.mark.parametrize("learning", ["joint", "adversarial", "from_real"])
@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True), (False, False)])
def test_what_is_learned_is_what_the_flags_say(learning, flags):
    geometry = build_product(
        NAMES, curvature=1.0, learn_curvature=flags[0], learn_weights=flags[1], learning=learning
    )
    assert geometry.learning == learning
    assert (geometry.learn_curvature, geometry.learn_weights) == flags
    learned = {name for name, p in geometry.named_parameters() if p.requires_grad}
    curvatures = {f"factors.{name}.log_magnitude" for name in NAMES[1:]}
    assert learned == (curvatures if flags[0] else set()) | (
        {"weight_logits"} if flags[1] else set()
    )


def test_fixed_learns_nothing_whatever_the_flags_say(draw):
    geometry = build_product(NAMES, curvature=1.0, weights=[0.5, 0, 0.5], learning="fixed")
    assert not list(geometry.parameters())
    assert not geometry.learn_curvature
    assert not geometry.learn_weights
    control = build_product(
        NAMES, curvature=1.0, weights=[0.5, 0, 0.5], learn_curvature=False, learn_weights=False
    )
    u, v = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(geometry.cost(u, v), control.cost(u, v))


def test_freezing_keeps_every_value(draw, device, dtype):
    geometry = build_product(NAMES, curvature=2.0, weights=[0.2, 0.3, 0.5]).to(device)
    u, v = draw(6, 4, dtype=dtype), draw(5, 4, radius=0.5, dtype=dtype)
    before, state = geometry.cost(u, v), geometry.state()
    assert geometry.radius_penalty(u) > 0
    geometry.freeze_()
    assert torch.equal(geometry.cost(u, v), before)
    assert geometry.state() == state
    assert not geometry.cost(u, v).requires_grad
    assert not geometry.learn_curvature
    assert not geometry.learn_weights
    assert geometry.radius_penalty(u) == 0
    assert geometry.skip_vanished_() == []


def test_repeated_factors_are_numbered_and_fall_back_on_their_kind(draw, device, dtype):
    names = ["euclidean", "hyperbolic", "hyperbolic", "hyperbolic", "spherical"]
    curvature = {"hyperbolic": 2.0, "hyperbolic_2": 0.5, "spherical": 1.0}
    geometry = build_product(names, curvature=curvature).to(device)
    numbered = ["euclidean", "hyperbolic", "hyperbolic_2", "hyperbolic_3", "spherical"]
    assert [name for name, _, _ in geometry.active_factors()] == numbered
    values = {f"curvature/{n}": c for n, c in zip(numbered[1:], (-2, -0.5, -2, 1), strict=True)}
    weights = {f"weight/{name}": 0.2 for name in numbered}
    assert geometry.state() == pytest.approx(values | weights)
    u, v = draw(6, 4, dtype=dtype), draw(5, 4, dtype=dtype)
    alone = build_product(["hyperbolic"], curvature=0.5).to(device)
    torch.testing.assert_close(geometry.factor_costs(u, v)[2], alone.factor_costs(u, v)[0])


def test_embedding_puts_every_flat_block_first(draw, device):
    names = ["spherical", "euclidean", "euclidean"]
    geometry = build_product(names, curvature=1.0, weights=[0.5, 0.1, 0.4]).to(device)
    u = draw(6, 4, dtype=torch.float32)
    first, second, _ = geometry.embed(u)
    torch.testing.assert_close(first, math.sqrt(0.1) * u)
    torch.testing.assert_close(second, math.sqrt(0.4) * u)


def test_vanished_factor_is_left_out_of_everything(draw, device, monkeypatch):
    geometry = build_product(NAMES, curvature=1.0, skip_below=0.01).to(device)
    shrink(geometry, "hyperbolic", 0.02)
    assert geometry.skip_vanished_() == []
    shrink(geometry, "hyperbolic", 0.005)
    assert geometry.skip_vanished_() == ["hyperbolic"]
    assert geometry.skip_vanished_() == []
    for method in ("squared_distance", "centroid", "embed", "radius_penalty"):
        monkeypatch.setattr(geometry.factors["hyperbolic"], method, None)
    rest = build_product(["euclidean", "spherical"], curvature=1.0).to(device)
    u, v = draw(6, 4, dtype=torch.float32), draw(5, 4, radius=0.7, dtype=torch.float32)
    torch.testing.assert_close(geometry.cost(u, v), rest.cost(u, v))
    torch.testing.assert_close(geometry.centroid_cost(u, v), rest.centroid_cost(u, v))
    torch.testing.assert_close(geometry.radius_penalty(u), rest.radius_penalty(u))
    torch.testing.assert_close(geometry.entropy(), rest.entropy())
    torch.testing.assert_close(geometry.embed(u), rest.embed(u))
    assert geometry.state() == pytest.approx(
        rest.state() | {"curvature/hyperbolic": -1.0, "weight/hyperbolic": 0.0}
    )


def test_gradients_without_the_vanished_factor_are_those_of_the_rest(draw, device):
    geometry = build_product(NAMES, curvature=1.0).double().to(device)
    shrink(geometry, "euclidean", 1e-4)
    assert geometry.skip_vanished_() == ["euclidean"]
    rest = build_product(NAMES[1:], curvature=1.0).double().to(device)
    u = draw(6, 4, radius=0.8, dtype=torch.float64)
    gradients = []
    for product in (geometry, rest):
        loss = product.cost(u, u).sum() + product.entropy() + product.radius_penalty(u)
        gradients.append(torch.autograd.grad(loss, list(product.parameters())))
    assert gradients[0][0][0] == 0
    torch.testing.assert_close(gradients[0][0][1:], gradients[1][0])
    torch.testing.assert_close(gradients[0][1:], gradients[1][1:])


def test_a_left_out_factor_does_not_come_back():
    geometry = build_product(NAMES, curvature=1.0)
    shrink(geometry, "spherical", 1e-5)
    geometry.skip_vanished_()
    geometry.weight_logits.data[2] = 10.0
    geometry.skip_vanished_()
    assert geometry.weights.tolist() == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_largest_weight_always_stays(spread):
    geometry = build_product(NAMES, curvature=1.0, skip_below=0.9)
    geometry.weight_logits.data.copy_(spread * torch.arange(3))
    gone = geometry.skip_vanished_()
    assert gone == (["euclidean", "hyperbolic"] if spread else [])
    assert geometry.weights.sum().item() == pytest.approx(1.0)


def test_zero_turns_skipping_off():
    geometry = build_product(NAMES, curvature=1.0, skip_below=0.0)
    shrink(geometry, "spherical", 0.0)
    assert geometry.skip_vanished_() == []


def test_the_choice_is_part_of_the_state():
    geometry = build_product(NAMES, curvature=1.0)
    shrink(geometry, "spherical", 1e-5)
    geometry.skip_vanished_()
    resumed = build_product(NAMES, curvature=1.0)
    resumed.load_state_dict(geometry.state_dict())
    assert resumed.state() == geometry.state()
    assert [name for name, _, _ in resumed.active_factors()] == NAMES[:2]
    fresh = build_product(NAMES, curvature=1.0).state_dict()
    resumed.load_state_dict(fresh)  # another mask: all three are back
    assert len(resumed.active_factors()) == 3
    geometry.load_state_dict({key: fresh[key] for key in fresh if key != "skipped"})
    assert len(geometry.active_factors()) == 3


def test_fixed_zeros_come_with_the_state():
    options = {"curvature": 1.0, "learning": "fixed"}
    geometry = build_product(NAMES, weights=[1, 0, 0], **options)
    other = build_product(NAMES, **options)
    other.load_state_dict(geometry.state_dict())
    assert [name for name, _, _ in other.active_factors()] == ["euclidean"]
