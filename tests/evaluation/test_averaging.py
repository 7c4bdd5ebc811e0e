"""Averages of weights: the closed form, and what they leave alone."""

import pytest
import torch
from torch import nn

from geodm_lightning.evaluation.averaging import WeightAverage


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_equals_the_recursion_by_hand(decay):
    layer = nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0, 8.0]
    nn.init.constant_(layer.weight, values[0])
    average, expected = WeightAverage(layer, decay=decay), values[0]
    for step, value in enumerate(values[1:]):
        nn.init.constant_(layer.weight, value)
        average.update()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
        assert layer.weight.item() == value
    average.copy_to_network()
    assert layer.weight.item() == pytest.approx(expected, rel=1e-6)


def test_weights_that_stand_still_are_their_average_and_buffers_are_not_touched():
    norm = nn.BatchNorm1d(3)
    average = WeightAverage(norm, decay=0.9)
    norm(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    statistics = norm.running_mean.clone()
    for _ in range(5):
        average.update()
    average.copy_to_network()
    assert torch.equal(norm.weight, torch.ones(3))
    assert torch.equal(norm.running_mean, statistics)
    assert norm.weight.requires_grad
