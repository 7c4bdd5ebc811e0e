"""Pools: the network of a step depends on (seed, step) only."""

import pytest
import torch

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pool import RandomPool, TrainedPool
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError


def build(generator: torch.Generator, name: str = "convnet") -> Network:
    options = {"width": 4} if name == "convnet" else {}
    return build_network(
        name, num_classes=3, channels=3, resolution=32, generator=generator, **options
    )


def weights(network: Network) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in network.state_dict().values()]).clone()


def states(count: int, name: str = "convnet", offset: int = 0) -> list[dict[str, torch.Tensor]]:
    return [
        build(torch.Generator().manual_seed(offset + index), name).state_dict()
        for index in range(count)
    ]


def test_random_pool_depends_on_seed_and_step_only(device):
    pool = RandomPool(build, seed=1).to(device)
    visited = {step: weights(pool.network(step)) for step in (0, 1, 2)}
    resumed = RandomPool(build, seed=1).to(device)
    for step in (2, 0, 1):
        assert torch.equal(weights(resumed.network(step)), visited[step])
    assert not torch.equal(visited[0], visited[1])
    assert not torch.equal(weights(RandomPool(build, seed=2).to(device).network(0)), visited[0])


def test_random_pool_draws_the_keyed_initialisation():
    expected = build(keyed_generator(7, "network", 5))
    assert torch.equal(weights(RandomPool(build, seed=7).network(5)), weights(expected))


def test_networks_are_frozen_train_mode_and_in_place(device):
    pool = RandomPool(build, seed=0).to(device)
    network = pool.network(0)
    address = network.classifier.weight.data_ptr()
    assert pool.network(1) is network
    assert network.classifier.weight.data_ptr() == address
    assert network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.rand(2, 3, 32, 32, device=device, requires_grad=True)
    network.embed(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_one_step_may_be_asked_twice_within_a_backward_pass():
    pool = RandomPool(build, seed=0)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    first = pool.network(4).embed(images)
    second = pool.network(4).embed(images)
    (first.sum() + second.sum()).backward()  # fails if the second call rewrote the weights
    assert images.grad.isfinite().all()


def test_trained_pool_lies_between_the_checkpoints(device):
    initial, final = states(3), states(3, offset=100)
    pool = TrainedPool(initial, final, build, seed=0).to(device)
    network_weights = [weights(build_from(initial[i])) for i in range(3)]
    final_weights = [weights(build_from(final[i])) for i in range(3)]
    chosen, shares = [], []
    for step in range(60):
        mixed, end = weights(pool.network(step)).cpu(), weights(pool.trained(step)).cpu()
        index = next(i for i in range(3) if torch.equal(end, final_weights[i]))
        direction = network_weights[index] - end
        share = ((mixed - end) @ direction / direction.square().sum()).item()
        torch.testing.assert_close(mixed, end + share * direction, rtol=1e-4, atol=1e-6)
        chosen.append(index)
        shares.append(share)
    assert set(chosen) == {0, 1, 2}
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in shares)
    assert 0.35 < sum(shares) / 60 < 0.65  # U(0, 1): standard error 0.037
    again = TrainedPool(initial, final, build, seed=0).to(device)
    assert torch.equal(weights(again.network(33)), weights(pool.network(33)))


def build_from(state: dict[str, torch.Tensor]) -> Network:
    network = build(torch.Generator())
    network.load_state_dict(state)
    return network


def test_without_interpolation_every_network_is_final():
    initial, final = states(2), states(2, offset=100)
    pool = TrainedPool(initial, final, build, seed=0, interpolate=False)
    for step in range(10):
        assert torch.equal(weights(pool.network(step)), weights(pool.trained(step)))
    assert not pool.trained(0).training
    assert pool.network(0).training
    assert not any(p.requires_grad for p in [*pool.network(0).parameters()])


def test_integer_buffers_are_taken_from_the_final_state():
    def build_resnet(generator: torch.Generator) -> Network:
        return build(generator, "resnet10t")

    initial, final = states(1, "resnet10t"), states(1, "resnet10t", offset=9)
    counters = [key for key, value in final[0].items() if not value.is_floating_point()]
    assert counters
    for key in counters:
        final[0][key] += 5
    network = TrainedPool(initial, final, build_resnet, seed=0).network(0)
    assert all(network.state_dict()[key] == 5 for key in counters)


def test_unequal_lists_of_states_are_refused():
    with pytest.raises(InputError, match="got 1 and 2"):
        TrainedPool(states(1), states(2), build, seed=0)
    with pytest.raises(InputError, match="at least one, got 0 and 0"):
        TrainedPool([], [], build, seed=0)
