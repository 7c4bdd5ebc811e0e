import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import (
    CharacteristicMatching,
    GeometricMatching,
    MeanMatching,
    PrototypeHistory,
    TransportMatching,
    scale_features,
)
from geodm_lightning.types import InputError

BASES = [MeanMatching(), CharacteristicMatching(64)]


def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture(params=BASES, ids=["mean", "characteristic"])
def base(request):
    return request.param


def test_flat_geometry_without_transport_is_the_base(features, flat, base, dtype):
    real, synthetic = features(dtype)
    terms = GeometricMatching(base, flat)(real, synthetic, generator=generator())
    expected = base(scale_features(real, synthetic), flat, generator=generator())
    assert torch.equal(terms.total, expected)
    assert list(terms.parts) == ["matching"]


def test_total_is_the_weighted_sum_of_its_parts(features, learned, base, dtype):
    matching = GeometricMatching(base, learned, TransportMatching(), 7.0, 3.0, 2.0)
    real, synthetic = features(dtype)
    terms = matching(real, synthetic, generator=generator())
    total, parts = terms.total, terms.parts
    others = 7 * parts["transport"] + 3 * parts["radius"] - 2 * parts["entropy"]
    unit = base.magnitude(scale_features(real, synthetic))
    torch.testing.assert_close(total, parts["matching"] + unit * others)
    plan = {"plan_entropy", "marginal_error", "plan_contrast"}
    assert set(parts) == {"matching", "transport", "radius", "entropy"} | plan
    assert all(part.shape == (3,) and not part.requires_grad for part in parts.values())


def test_balance_of_terms_does_not_depend_on_the_scale_of_features(features, learned, dtype):
    real, synthetic = features(dtype)
    matching = GeometricMatching(MeanMatching(), learned, TransportMatching())
    total = matching(real, synthetic, generator=generator()).total
    scaled = matching(3 * real, 3 * synthetic, generator=generator()).total
    torch.testing.assert_close(scaled, 9 * total, rtol=1e-4, atol=1e-5)


def test_parts_are_those_of_their_owners(features, learned, base, dtype):
    real, synthetic = features(dtype)
    matching = GeometricMatching(base, learned, TransportMatching())
    parts = matching(real, synthetic, generator=generator()).parts
    scaled = scale_features(real, synthetic)
    transport = TransportMatching()(scaled, learned)
    expected = {
        "matching": base(scaled, learned, generator=generator()),
        "transport": transport.cost,
        **transport.statistics,
        "radius": learned.radius_penalty(scaled.real),
        "entropy": learned.entropy().expand(3),
    }
    for name, part in expected.items():
        torch.testing.assert_close(parts[name], part.detach(), msg=name, check_dtype=False)


def test_zero_weights_turn_terms_off(features, learned, base, dtype):
    real, synthetic = features(dtype)
    matching = GeometricMatching(base, learned, TransportMatching(), 0.0, 0.0, 0.0)
    terms = matching(real, synthetic, generator=generator())
    torch.testing.assert_close(terms.total.detach(), terms.parts["matching"])
    assert "transport" not in terms.parts
    assert list(terms.shares) == ["geometry"]


def test_batched_equals_a_loop_over_classes(features, learned, base, dtype):
    real, synthetic = features(dtype)
    matching = GeometricMatching(base, learned, TransportMatching())
    loop = [
        matching(real[i : i + 1], synthetic[i : i + 1], generator=generator()).total[0]
        for i in range(3)
    ]
    total = matching(real, synthetic, generator=generator()).total
    torch.testing.assert_close(total, torch.stack(loop), rtol=1e-5, atol=1e-5)


def test_geometry_receives_gradients_and_moves(features, learned, base):
    real, synthetic = features(torch.float32)
    matching = GeometricMatching(base, learned, TransportMatching(num_iters=10))
    optimiser = torch.optim.Adam(matching.parameters(), lr=1e-2)
    before = learned.state()
    for step in range(100):
        optimiser.zero_grad()
        terms = matching(real, synthetic, generator=generator())
        terms.total.sum().backward()
        if step == 0:
            assert len(list(matching.parameters())) == 3
            assert all((p.grad != 0).all() for p in matching.parameters())
        optimiser.step()
        learned.clamp_()
    after = learned.state()
    assert all(abs(after[name] - before[name]) > 1e-3 for name in before)
    assert sum(after[f"weight/{name}"] for name in learned.factors) == pytest.approx(1)
    assert after["curvature/hyperbolic"] < 0 < after["curvature/spherical"]


def test_synthetic_features_are_drawn_to_the_real_ones(features, learned, base):
    real, start = features(torch.float32)
    synthetic = start.clone().requires_grad_()
    matching = GeometricMatching(base, learned, TransportMatching(num_iters=10))
    optimiser = torch.optim.Adam([synthetic], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        matching(real, synthetic, generator=generator()).total.sum().backward()
        optimiser.step()
    moved = synthetic.detach()
    before = (start.mean(1) - real.mean(1)).norm(dim=-1)
    assert ((moved.mean(1) - real.mean(1)).norm(dim=-1) < before / 2).all()


def test_entropy_bonus_holds_the_weights_together(features, learned):
    real, synthetic = features(torch.float32)
    gradients = []
    learned.weight_logits.data[0] = 2.0
    for weight in (0.0, 1e4):
        matching = GeometricMatching(MeanMatching(), learned, entropy_weight=weight)
        total = matching(real, synthetic, generator=generator()).total.sum()
        gradients.append(torch.autograd.grad(total, learned.weight_logits)[0])
    assert (gradients[1] - gradients[0])[0] > 0  # descent takes from the heaviest factor
    assert (gradients[1] - gradients[0])[1:].max() < 0


def test_autocast_changes_nothing(features, learned, base, device):
    real, synthetic = features(torch.float32)
    matching = GeometricMatching(base, learned, TransportMatching())
    expected = matching(real, synthetic, generator=generator()).total
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        assert torch.equal(matching(real, synthetic, generator=generator()).total, expected)


@pytest.mark.parametrize("name", ["transport_weight", "curvature_weight", "entropy_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_refuses_negative_weights(learned, name, value):
    with pytest.raises(InputError, match=f"{name} must not be negative, got {value}"):
        GeometricMatching(MeanMatching(), learned, **{name: value})


def test_shares_add_up_and_each_has_its_own_backward_pass(features, learned, base, dtype):
    real, synthetic = features(dtype)
    matching = GeometricMatching(base, learned, TransportMatching())
    whole = synthetic.clone().requires_grad_()
    matching(real, whole, generator=generator()).total.sum().backward()
    parts = synthetic.clone().requires_grad_()
    shares = matching(real, parts, generator=generator()).shares
    assert list(shares) == ["geometry", "transport"]
    shares["geometry"].sum().backward(retain_graph=True)
    shares["transport"].sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-4, atol=1e-6)


def test_an_adversary_sees_the_regularisers_with_the_opposite_sign(features, device, dtype):
    """Ascent on the loss is descent on the regularisers: they hold the geometry either way."""
    real, synthetic = features(dtype)
    parts = {}
    for learning in ("joint", "adversarial"):
        geometry = build_product(
            ["euclidean", "hyperbolic", "spherical"], curvature=1.0, learning=learning
        ).to(device)
        matching = GeometricMatching(MeanMatching(), geometry, None, 0.0, 3.0, 2.0)
        parts[learning] = matching(real, synthetic, generator=generator())
        ascending = list(matching.ascending_parameters())
        assert len(ascending) == (3 if learning == "adversarial" else 0)
    held = parts["joint"].total - parts["joint"].parts["matching"]
    opposed = parts["adversarial"].total - parts["adversarial"].parts["matching"]
    torch.testing.assert_close(opposed, -held)


def test_history_pulls_towards_remembered_prototypes(features, learned, base, dtype):
    real, synthetic = features(dtype)
    history = PrototypeHistory(weight=5.0, decay=0.9, start_share=0.0)
    history.allocate(3)
    matching = GeometricMatching(base, learned, history=history)
    first = matching(real, synthetic, generator=generator(), classes=slice(0, 3))
    assert (first.parts["history"] == 0).all()
    history.advance_(0.1)
    moved = matching(real, synthetic + 0.3, generator=generator(), classes=slice(0, 3))
    assert (moved.parts["history"] > 0).all()
    without = GeometricMatching(base, learned)(real, synthetic + 0.3, generator=generator())
    torch.testing.assert_close(moved.total, without.total + moved.parts["history"])
