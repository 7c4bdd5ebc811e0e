import math

import pytest
import torch
from torch.nn import functional

from geodm_lightning.matching import CharacteristicMatching, FrequencySampler, scale_features
from geodm_lightning.types import InputError


def sampler(widths=(8, 8, 9), seed=0):
    return FrequencySampler(widths, generator=torch.Generator().manual_seed(seed))


def loss(geometry, real, synthetic, learned_frequencies, num_frequencies=32):
    matching = CharacteristicMatching(num_frequencies, sampler=learned_frequencies)
    source = torch.Generator().manual_seed(7)
    return matching(scale_features(real, synthetic), geometry, generator=source)


def test_is_the_published_network_block_by_block(rng, device):
    net, noise = sampler().to(device), torch.randn(16, 25, generator=rng, device=device)
    frequencies = net(noise)
    for network, x, actual in zip(
        net.networks, noise.split((8, 8, 9), -1), frequencies.split((8, 8, 9), -1), strict=True
    ):
        for i in (0, 3, 6):
            x = functional.linear(x, network[i].weight, network[i].bias)
            x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
            x = torch.tanh(x) if i == 6 else torch.where(x > 0, x, 0.2 * x)
        torch.testing.assert_close(actual, x)


def test_every_frequency_is_distinct(rng, device):
    frequencies = sampler().to(device)(torch.randn(64, 25, generator=rng, device=device))
    assert frequencies.shape == (64, 25)
    assert len(frequencies.unique(dim=0)) == 64


def test_initial_weights_are_uniform_and_come_from_the_generator_alone():
    torch.manual_seed(1)
    one, other = sampler((400,)), sampler((400,))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(sampler((400,), seed=1).networks[0][0].weight, one.networks[0][0].weight)
    for layer in one.networks[0][::3]:
        bound = 1 / math.sqrt(400)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert layer.bias.std() > 0


def test_nothing_is_remembered_between_draws(rng, device):
    net, noise = sampler().to(device), torch.randn(16, 25, generator=rng, device=device)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = net(noise)
    net(3 + noise)
    assert torch.equal(net.eval()(noise), first)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_ascent_raises_what_descent_lowers(features, learned, device):
    real, synthetic = features(torch.float32)
    matching = CharacteristicMatching(32, sampler=sampler().to(device))
    ascending = matching.ascending_parameters()
    assert len(ascending) == 3 * 3 * 4
    optimiser = torch.optim.SGD(ascending, lr=1e-3, momentum=0.5, maximize=True)
    values = []
    for _ in range(30):
        source = torch.Generator().manual_seed(7)
        value = matching(scale_features(real, synthetic), learned, generator=source).sum()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] > 1.02 * values[0]


def test_loss_is_ncfm_at_the_learned_frequencies(features, flat, device):
    real, synthetic = features(torch.float64)
    net = sampler((8,)).to(device)
    noise = torch.randn(32, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    frequencies = net(noise.to(device)).detach()
    one, other = (
        torch.exp(1j * (x / x.norm(dim=-1, keepdim=True) @ frequencies.T)).mean(1)
        for x in (real, synthetic)
    )
    expected = 300 * math.sqrt(0.5) * (one - other).abs().mean(-1)
    torch.testing.assert_close(loss(flat, real, synthetic, net), expected)


def test_every_block_has_a_gradient(features, learned, device):
    net = sampler().to(device)
    loss(learned, *features(torch.float32), net).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert all((network[0].weight.grad != 0).any() for network in net.networks)


def test_without_a_sampler_nothing_ascends():
    assert CharacteristicMatching(8).ascending_parameters() == []


def test_refusals(features, learned, device):
    with pytest.raises(InputError, match=r"widths must be positive, one for each block, got \[\]"):
        sampler(())
    with pytest.raises(InputError, match=r"got \[8, 0\]"):
        sampler((8, 0))
    with pytest.raises(InputError, match="num_frequencies must be at least 2, got 1"):
        CharacteristicMatching(1, sampler=sampler())
    with pytest.raises(InputError, match="needs at least 2, got 1"):
        sampler()(torch.zeros(1, 25))
    with pytest.raises(InputError, match=r"widths \[8, 8\], the coordinates are 25 wide"):
        loss(learned, *features(torch.float32), sampler((8, 8)).to(device))
