"""Heads: which features each factor of a product sees."""

import math

import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.geometry.heads import LearnedHeads, orthonormal_columns
from geodm_lightning.types import InputError

NAMES = ["euclidean", "hyperbolic", "spherical"]
CLOSE = {"rtol": 2e-5, "atol": 1e-6}  # the bases are held in float32


def built(names=NAMES, **options):
    return build_product(names, curvature=options.pop("curvature", 1.3), **options)


def test_identity_heads_share_the_very_same_tensor(draw, device):
    u = draw(6, 9, dtype=torch.float32)
    assert all(own is u for own in built().to(device).coordinates(u))


@pytest.mark.parametrize("heads", ["split", "learned"])
def test_one_flat_factor_is_mean_matching_up_to_a_rotation(draw, device, dtype, heads):
    u, v = draw(2, 6, 9, dtype=dtype), draw(2, 5, 9, radius=0.7, dtype=dtype)
    options = {"heads": heads, "dims": [9], "num_features": 9}
    geometry = built(["euclidean"], **options).to(device)
    expected = (u.mean(-2) - v.mean(-2)).square().sum(-1)
    torch.testing.assert_close(geometry.centroid_cost(u, v), expected, **CLOSE)
    (own,) = geometry.coordinates(u)
    torch.testing.assert_close(own @ own.mT, u @ u.mT, **CLOSE)


def test_split_divides_an_orthonormal_basis(draw, device, dtype):
    geometry = built(heads="split", num_features=11).to(device)
    u = draw(7, 11, dtype=dtype)
    parts = geometry.coordinates(u)
    assert [part.shape for part in parts] == [(7, 4), (7, 4), (7, 3)]
    restored = sum(p.square().sum(-1) * p.shape[-1] / 11 for p in parts)
    torch.testing.assert_close(restored, u.square().sum(-1), **CLOSE)
    flat = built(
        ["euclidean"] * 3, heads="split", num_features=11, weights=[4 / 11, 4 / 11, 3 / 11]
    )
    expected = built(["euclidean"]).to(device).cost(u, u)
    torch.testing.assert_close(flat.to(device).cost(u, u), expected, **CLOSE)


@pytest.mark.parametrize("heads", ["split", "learned"])
def test_every_factor_sees_the_mean_squared_norm_of_the_whole(draw, device, heads):
    geometry = built(heads=heads, dims=[30, 20, 10], num_features=60).to(device)
    u = draw(4000, 60, dtype=torch.float64)  # directions all alike
    for own in geometry.coordinates(u):
        assert own.square().sum(-1).mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("heads", ["split", "learned"])
def test_factors_work_on_their_own_coordinates(draw, device, dtype, heads):
    geometry = built(heads=heads, dims=[4, 3, 2], num_features=9).to(device)
    u, v = draw(2, 6, 9, dtype=dtype), draw(2, 5, 9, radius=0.6, dtype=dtype)
    items = list(zip(geometry.active_factors(), geometry.coordinates(u), strict=True))
    others = geometry.coordinates(v)
    for ((_, factor, weight), own), other, cost, mean, block in zip(
        items,
        others,
        geometry.factor_costs(u, v),
        geometry.centroids(u),
        geometry.embed(u),
        strict=True,
    ):
        torch.testing.assert_close(cost, factor.cdist(own, other).square(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean, factor.centroid(own))
        torch.testing.assert_close(block, weight.sqrt() * factor.embed(own))
    penalties = [factor.radius_penalty(own.norm(dim=-1)) for (_, factor, _), own in items[1:]]
    torch.testing.assert_close(geometry.radius_penalty(u), sum(penalties))


def test_heads_of_factors_left_out_are_not_used(draw, device):
    options = {"heads": "split", "dims": [4, 3, 2], "num_features": 9}
    geometry = built(weights=[0.5, 0, 0.5], learn_weights=False, **options).to(device)
    u = draw(6, 9, dtype=torch.float32)
    assert [own.shape[-1] for own in geometry.coordinates(u)] == [4, 2]


def test_the_split_is_rebuilt_from_the_seed():
    bases = [built(heads="split", num_features=9, seed=seed).heads.basis for seed in (3, 3, 4)]
    assert torch.equal(bases[0], bases[1])
    assert not torch.allclose(bases[0], bases[2], atol=1e-2)
    geometry = built(heads="split", num_features=9)
    assert not list(geometry.heads.parameters())
    assert not any("heads" in key for key in geometry.state_dict())


def test_learned_heads_start_as_the_identity(draw, device, dtype):
    u, v = draw(6, 9, dtype=dtype), draw(5, 9, dtype=dtype)
    geometry = built(heads="learned", num_features=9).to(device)
    torch.testing.assert_close(geometry.cost(u, v), built().to(device).cost(u, v))
    narrow = LearnedHeads([9, 5, 3], num_features=9, seed=1).matrices
    assert torch.equal(narrow[0], torch.eye(9))
    assert torch.equal(narrow[1][:3], narrow[2])
    torch.testing.assert_close(narrow[1] @ narrow[1].mT, torch.eye(5))


def test_clamp_brings_the_rows_back(device, rng):
    geometry = built(heads="learned", dims=[9, 5, 3], num_features=9).to(device)
    starts = [matrix.detach().clone() for matrix in geometry.heads.matrices]
    geometry.clamp_()
    for matrix, start in zip(geometry.heads.matrices, starts, strict=True):
        torch.testing.assert_close(matrix.detach(), start)  # orthonormal rows stay
        noise = torch.randn(matrix.shape, generator=rng, device=device)
        matrix.data.add_(0.05 * noise)
    geometry.clamp_()
    for matrix, start in zip(geometry.heads.matrices, starts, strict=True):
        eye = torch.eye(len(matrix), device=device)
        torch.testing.assert_close(matrix @ matrix.mT, eye, rtol=0, atol=1e-6)
        assert ((matrix * start).sum(-1) > 0.8).all()  # no row is turned round


def test_gradient_of_the_cost_in_learned_heads(draw, device):
    options = {"heads": "learned", "dims": [2, 3], "num_features": 4}
    geometry = built(["hyperbolic", "spherical"], **options).double().to(device)
    u, v = draw(3, 4, dtype=torch.float64), draw(2, 4, radius=0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *_: geometry.cost(u, v), tuple(geometry.parameters()), atol=1e-6
    )
    assert geometry.learn_heads


def test_learned_heads_are_state_and_can_be_frozen():
    options = {"heads": "learned", "dims": [2, 3, 4], "num_features": 4}
    geometry, other = built(**options, seed=1), built(**options, seed=2)
    other.load_state_dict(geometry.state_dict())
    for mine, theirs in zip(geometry.heads.matrices, other.heads.matrices, strict=True):
        assert torch.equal(mine, theirs)
    geometry.freeze_()
    assert not geometry.learn_heads
    assert not built(**options, learning="fixed").learn_heads


def test_random_bases_are_uniform():
    """Means of the squared entries and of a corner, over draws: 1/n and 0 for Haar's measure."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.stack([orthonormal_columns(3, 2, generator)[0, 0] for _ in range(2000)])
    assert corners.mean().item() == pytest.approx(0, abs=0.04)
    assert corners.square().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_autocast_leaves_heads_alone(draw, device):
    geometry = built(heads="split", num_features=9).to(device)
    u = draw(6, 9, dtype=torch.float32)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        inside = geometry.coordinates(u)
    assert all(torch.equal(a, b) for a, b in zip(inside, geometry.coordinates(u), strict=True))
    assert all(own.dtype == torch.float32 for own in geometry.coordinates(u.bfloat16()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": "linear"}, "unknown heads 'linear'; choose from identity, split, learned"),
        ({"dims": [3, 3, 3]}, r"identity heads .* got dims \[3, 3, 3\]"),
        ({"heads": "split", "num_features": None}, "split heads need num_features"),
        ({"heads": "learned", "num_features": None}, "learned heads need num_features"),
        ({"heads": "split", "dims": [3, 3, 4]}, r"\[3, 3, 4\] sum to 10, not to the 9 features"),
        ({"heads": "split", "dims": [4, 5]}, r"\[4, 5\] must have one entry for each of the 3"),
        ({"heads": "split", "dims": [9, 0, 0]}, r"whole numbers from 1 on, got \[9, 0, 0\]"),
        ({"heads": "split", "dims": [2.5, 2.5, 4]}, "whole numbers from 1 on"),
        ({"heads": "split", "num_features": 2}, "whole numbers from 1 on"),
        ({"heads": "learned", "dims": [9, 9, 10]}, r"\[9, 9, 10\] exceed the 9 features"),
    ],
)
def test_refusals_are_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as refusal:
        built(**{"num_features": 9} | arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("heads", ["split", "learned"])
def test_refuses_features_of_another_width(heads):
    with pytest.raises(InputError, match=r"width 7, the heads were built for num_features=9"):
        built(heads=heads, num_features=9).coordinates(torch.zeros(2, 7))
    assert math.isfinite(built(heads=heads, num_features=9).cost(*torch.zeros(2, 1, 9)).item())
