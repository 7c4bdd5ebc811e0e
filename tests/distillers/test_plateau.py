"""A rate that follows the loss one step behind is the rate that follows it at once."""

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from geodm_lightning.distillers.plateau import Plateau

LOSSES = (5.0, 4.0, 4.5, 4.4, 3.9, 4.0, 4.1, 4.2, 4.3, 1.0)


def begin(factor=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, ReduceLROnPlateau(optimizer, factor=factor, patience=1)


def test_rates_are_those_of_a_schedule_that_sees_every_loss_at_once(device):
    optimizer, schedule = begin()
    plain, expected = begin()
    plateau = Plateau(schedule)
    rates = []
    for loss in LOSSES:
        plateau.settle()
        rates.append((optimizer.param_groups[0]["lr"], plain.param_groups[0]["lr"]))
        plateau.watch(torch.tensor(loss, device=device))
        expected.step(loss)
    ours, theirs = zip(*rates, strict=True)
    assert ours == theirs
    assert min(ours) < 0.5  # it was lowered more than once
    assert plateau.state_dict() == expected.state_dict()  # the last loss is among those seen


def test_a_loss_is_seen_once_and_a_state_taken_up(device):
    _, schedule = begin()
    plateau = Plateau(schedule)
    plateau.settle()
    assert schedule.last_epoch == 0
    plateau.watch(torch.tensor(2.0, device=device))
    for _ in range(2):
        state = plateau.state_dict()
    assert (state["last_epoch"], state["best"]) == (1, pytest.approx(2.0))
    _, other = begin()
    resumed = Plateau(other)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
