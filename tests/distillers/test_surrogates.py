"""Surrogates: states of one plain training, kept at the right steps, read ever after."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning import assembly
from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.data.normalise import normalise
from geodm_lightning.distillers.surrogates import SurrogateSettings, trained_surrogates
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_settings

SHORT = SurrogateSettings(epochs=(0, 1, 2), batch_size=30)


@pytest.fixture(scope="module")
def table():
    data = assembly.build_data(compose_settings(*TINY), torch.device("cpu"))
    return data.train.head(10)


def build(table):
    return network_builder({"name": "convnet", "depth": 3, "width": 4}, table.spec)


def train(table, folder, settings=SHORT):
    return trained_surrogates(
        table,
        build(table),
        settings=settings,
        folder=folder,
        identity={},
        seed=0,
        site=Site(torch.device("cpu")),
    )


def plain_states(table, epochs):
    """The same training as a loop."""
    network = build(table)(keyed_generator(0, "surrogate")).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    states = []
    for epoch in range(max(epochs) + 1):
        states.append({k: v.clone() for k, v in network.state_dict().items()})
        generator = keyed_generator(0, "surrogate order", "order", epoch)
        for indices in torch.randperm(len(table), generator=generator).split(30):
            images = normalise(table.gather(indices), table.spec)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), table.labels[indices]).backward()
            optimizer.step()
    return [states[epoch] for epoch in epochs]


def test_states_are_those_of_a_plain_loop_after_so_many_epochs(table, tmp_path):
    found = train(table, tmp_path)
    for state, expected in zip(found, plain_states(table, SHORT.epochs), strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-6)


def test_they_are_read_when_they_are_there_and_refused_when_damaged(table, tmp_path):
    first = train(table, tmp_path)
    (path,) = tmp_path.rglob("surrogate.ckpt")
    before = path.stat().st_mtime_ns
    torch.testing.assert_close(train(table, tmp_path), first, rtol=0, atol=0)
    assert path.stat().st_mtime_ns == before
    train(table, tmp_path, SHORT._replace(epochs=(0,)))
    assert len(list(tmp_path.rglob("surrogate.ckpt"))) == 2
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged checkpoint"):
        train(table, tmp_path)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (SurrogateSettings(), [0, 80, 256, 640]),
        (SurrogateSettings(max_steps=40), [0, 5, 16, 40]),
        (SurrogateSettings(max_steps=640), [0, 80, 256, 640]),
        (SurrogateSettings(max_steps=2), [0, 0, 1, 2]),
        (SurrogateSettings(epochs=(0,), max_steps=2), [0]),
        (SurrogateSettings(epochs=(3,)), [48]),
    ],
)
def test_a_cap_moves_all_states_along(settings, steps):
    assert settings.steps(1000) == steps  # 16 steps an epoch, the last one of fewer images


def test_under_a_cap_there_are_as_many_states(table, tmp_path):
    states = train(table, tmp_path, SurrogateSettings(max_steps=2))
    assert len(states) == 4
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    weights = [state["classifier.weight"] for state in states]
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("epochs", [(), (5, 1), (1, 1), (-1, 2)])
def test_epochs_must_rise(table, tmp_path, epochs):
    with pytest.raises(InputError, match="must rise from 0 or more"):
        train(table, tmp_path, SHORT._replace(epochs=epochs))
    assert not list(tmp_path.iterdir())
