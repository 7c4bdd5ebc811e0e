"""Translated networks compute what they compute as they are, and what cannot be is left alone."""

import pytest
import torch

from geodm_lightning.networks import compiled
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.networks.stack import NetworkStack
from geodm_lightning.processes import say_once

CPU = torch.device("cpu")


def build(generator):
    return build_network(
        "convnet_d3", num_classes=4, channels=1, resolution=8, width=6, generator=generator
    )


def difference(ours, plain):
    """Return how far tensors lie apart, in shares of the length of the second."""
    return float((ours.detach() - plain.detach()).norm() / plain.detach().norm())


@pytest.fixture
def untold():
    """Forget what was found out about compilers and what was said of them."""
    for remembered in (compiled.obstacle, say_once):
        remembered.cache_clear()
    yield
    compiled.obstacle.cache_clear()


@pytest.mark.slow
def test_features_and_gradients_are_those_of_the_network_of_each_step():
    embed = compiled.compiled(compiled.embedded, CPU)
    assert embed is not compiled.embedded
    pool = RandomPool(build, seed=0)
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in (0, 1):  # the weights are drawn anew in place
        found = []
        for compute in (embed, compiled.embedded):
            leaf = images.clone().requires_grad_()
            features = compute(pool.network(step), leaf)
            found.append((features, *torch.autograd.grad(features.square().sum(), leaf)))
        assert all(difference(*pair) < 1e-4 for pair in zip(*found, strict=True))


@pytest.mark.slow
def test_students_side_by_side_learn_the_same():
    networks = [build(torch.Generator().manual_seed(seed)) for seed in range(2)]
    images = torch.randn(2, 10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for translate in (True, False):
        stack = NetworkStack(networks)
        if translate:
            compiled.compile_network(stack, CPU)
        logits = stack(images)
        weights = list(stack.parameters())
        found.append((logits, *torch.autograd.grad(logits.square().sum(), weights)))
    for ours, plain in zip(*found, strict=True):
        assert difference(ours, plain) < 1e-4 or float(plain.detach().abs().max()) < 1e-4


@pytest.mark.slow
def test_without_a_compiler_networks_run_as_they_are_and_why_is_said_once(
    untold, caplog, monkeypatch
):
    import torch._inductor.config as config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", (None, "/bin/false"))
    monkeypatch.setattr(config, "force_disable_caches", True)
    for _ in range(2):
        assert compiled.compiled(compiled.embedded, CPU) is compiled.embedded
    network = build(torch.Generator().manual_seed(0))
    compiled.compile_network(network, CPU)
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 4)
    told = [r.getMessage() for r in caplog.records if r.name == "geodm_lightning.processes"]
    (line,) = told
    assert line.startswith("trainer.compile=true, but networks run as they are: torch.compile")
    torch._dynamo.reset()
