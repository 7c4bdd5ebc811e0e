import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import CharacteristicMatching, FrequencySampler, scale_features
from geodm_lightning.matching.characteristic import draw_frequencies
from geodm_lightning.types import InputError


def generator():
    return torch.Generator().manual_seed(7)


def loss(geometry, real, synthetic, num_frequencies=64, **options):
    matching = CharacteristicMatching(num_frequencies, **options)
    return matching(scale_features(real, synthetic), geometry, generator=generator())


def ncfm(real, synthetic, frequencies, amplitude, phase):
    """One class of the released NCFM loss, written with complex numbers."""
    real = real / real.norm(dim=-1, keepdim=True)
    synthetic = synthetic / synthetic.norm(dim=-1, keepdim=True)
    one = torch.exp(1j * (real @ frequencies.T)).mean(0)
    other = torch.exp(1j * (synthetic @ frequencies.T)).mean(0)
    amplitude_term = (one.abs() - other.abs()) ** 2
    phase_term = 2 * (one.abs() * other.abs() - one.real * other.real - one.imag * other.imag)
    return 300 * torch.sqrt(amplitude * amplitude_term + phase * phase_term.clamp(min=1e-12)).mean()


@pytest.mark.parametrize(("amplitude", "phase"), [(0.5, 0.5), (0.9, 0.1), (0.2, 0.8)])
def test_flat_geometry_is_ncfm(features, flat, dtype, amplitude, phase):
    real, synthetic = features(dtype)
    frequencies = torch.randn(64, 8, generator=generator(), dtype=dtype).to(real.device)
    expected = [
        ncfm(r, s, frequencies, amplitude, phase) for r, s in zip(real, synthetic, strict=True)
    ]
    actual = loss(flat, real, synthetic, amplitude=amplitude, phase=phase)
    rtol = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(actual, torch.stack(expected), rtol=rtol, atol=0)


def test_equal_terms_are_the_plain_distance(features, flat):
    real, synthetic = features(torch.float64)
    frequencies = torch.randn(64, 8, generator=generator(), dtype=torch.float64).to(real.device)
    one, other = (
        torch.exp(1j * (x / x.norm(dim=-1, keepdim=True) @ frequencies.T)).mean(1)
        for x in (real, synthetic)
    )
    expected = 300 * math.sqrt(0.5) * (one - other).abs().mean(-1)
    torch.testing.assert_close(loss(flat, real, synthetic), expected)


def test_product_is_ncfm_on_the_weighted_coordinates(features, device):
    weights = [0.25, 0.5, 0.25]
    geometry = build_product(
        ["hyperbolic", "euclidean", "spherical"],
        curvature=1.0,
        weights=weights,
        learn_weights=False,
    ).to(device)
    real, synthetic = features(torch.float64)
    source = generator()  # the flat block is drawn first, whatever the order of the factors
    widths = {"euclidean": 8, "hyperbolic": 8, "spherical": 9}
    frequencies = torch.cat(
        [torch.randn(64, d, generator=source, dtype=torch.float64) for d in widths.values()], -1
    ).to(device)
    scaled = scale_features(real, synthetic)
    share = dict(zip(geometry.factors, weights, strict=True))
    one, other = (
        torch.cat([math.sqrt(share[g]) * geometry.factors[g].embed(u) for g in widths], dim=-1)
        for u in (scaled.real, scaled.synthetic)
    )
    expected = [ncfm(r, s, frequencies, 0.5, 0.5) for r, s in zip(one, other, strict=True)]
    torch.testing.assert_close(loss(geometry, real, synthetic), torch.stack(expected))


def plain(matching, scaled, geometry):
    """The loss by concatenated, normalised coordinates and one product with all frequencies."""
    widths = [block.shape[-1] for block in geometry.embed(scaled.real)]
    noise = draw_frequencies(
        widths, matching.num_frequencies, like=scaled.real, generator=generator()
    )
    frequencies = torch.cat(noise, dim=-1)
    if matching.sampler is not None:
        frequencies = matching.sampler(frequencies)
    waves = []
    for side in (scaled.real, scaled.synthetic):
        points = functional.normalize(torch.cat(geometry.embed(side), dim=-1), dim=-1)
        waves.append(torch.exp(1j * (points @ frequencies.mT)).mean(-2))
    one, other = waves
    return 300 * math.sqrt(0.5) * (one - other).abs().mean(-1)


@pytest.mark.parametrize("sampled", [False, True], ids=["gaussian", "sampler"])
@pytest.mark.parametrize("heads", ["identity", "split", "learned"])
def test_loss_and_gradients_are_those_of_one_product(features, device, heads, sampled):
    names = ["hyperbolic", "euclidean", "spherical", "stereographic"]
    dims = {"identity": None, "split": [3, 2, 2, 1], "learned": [8, 5, 8, 3]}[heads]
    width = None if heads == "identity" else 8
    geometry = build_product(names, curvature=0.8, heads=heads, dims=dims, num_features=width)
    geometry.to(device, torch.float64)
    real, synthetic, _ = scaled = scale_features(*features(torch.float64))
    sampler = None
    if sampled:
        widths = [block.shape[-1] for block in geometry.embed(real)]
        sampler = FrequencySampler(widths, generator=generator()).to(device, torch.float64)
    matching = CharacteristicMatching(32, sampler=sampler)
    inputs = [synthetic.requires_grad_(), *geometry.parameters(), *matching.parameters()]
    values = (
        matching(scaled, geometry, generator=generator()),
        plain(matching, scaled, geometry),
    )
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    weights = torch.tensor([1.0, 2.0, 3.0]).to(real)
    for actual, expected in zip(
        *(torch.autograd.grad((weights * value).sum(), inputs) for value in values), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_a_learned_geometry_needs_no_second_product_on_the_real_side(features, learned):
    num_real, num_synthetic, num_frequencies = 12, 5, 16
    scaled = scale_features(*features(torch.float32, num_real, num_synthetic))
    scaled.synthetic.requires_grad_()
    matching = CharacteristicMatching(num_frequencies)
    product = 2 * 3 * num_frequencies * 3 * 8  # one point of each class on the three factors
    with FlopCounterMode(display=False) as forward:
        value = matching(scaled, learned, generator=generator()).sum()
    with FlopCounterMode(display=False) as backward:
        value.backward()
    assert all(parameter.grad is not None for parameter in learned.parameters())
    assert forward.get_total_flops() == (num_real + num_synthetic) * product
    assert backward.get_total_flops() == num_synthetic * product


def test_batched_equals_a_loop_over_classes(features, learned, dtype):
    real, synthetic = features(dtype)
    loop = [loss(learned, r, s) for r, s in zip(real, synthetic, strict=True)]
    torch.testing.assert_close(loss(learned, real, synthetic), torch.stack(loop), rtol=1e-5, atol=0)


def test_order_of_samples_and_unit_do_not_matter(features, learned, dtype):
    real, synthetic = features(dtype)
    expected = loss(learned, real, synthetic)
    moved = loss(learned, 32 * real.flip(1), 32 * synthetic.flip(1))
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("phase", [0.5, 0.0])
def test_identical_sets_have_no_loss_and_a_finite_gradient(features, learned, dtype, phase):
    real, _ = features(dtype)
    synthetic = real.clone().requires_grad_()
    value = loss(learned, real, synthetic, phase=phase)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    floor = 300 * math.sqrt(phase * 1e-12) if phase else 300 * 1e-12  # the clamps, nothing else
    torch.testing.assert_close(value, torch.full_like(value, floor), rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) < 1e-3


def test_gradient_matches_finite_differences(features, learned):
    real, synthetic = features(torch.float64)
    learned.double()
    assert torch.autograd.gradcheck(
        lambda synthetic, *_: loss(learned, real, synthetic, num_frequencies=16),
        (synthetic.requires_grad_(), *learned.parameters()),
    )


def test_frequencies_come_from_the_generator_alone(features, learned):
    real, synthetic = features(torch.float32)
    first = loss(learned, real, synthetic)
    torch.manual_seed(3)
    assert torch.equal(loss(learned, real, synthetic), first)
    matching, source = CharacteristicMatching(64), generator()
    scaled = scale_features(real, synthetic)
    values = [matching(scaled, learned, generator=source) for _ in range(2)]
    assert torch.equal(values[0], first)
    assert not torch.equal(values[1], first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frequencies": 0}, "num_frequencies must be at least 1, got 0"),
        ({"amplitude": -0.1}, "amplitude must not be negative, got -0.1"),
        ({"phase": float("nan")}, "phase must not be negative, got nan"),
        ({"scale": -1.0}, "scale must not be negative, got -1.0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        CharacteristicMatching(**options)
