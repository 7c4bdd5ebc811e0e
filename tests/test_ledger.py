"""Time and memory are charged to the component that spends them."""

import time

import pytest
import torch

from geodm_lightning.ledger import COMPONENTS, TRACED_ITERATION, Ledger

MIB = 2**20


def block(mebibytes):
    return torch.ones(mebibytes * MIB, dtype=torch.uint8)


def test_seconds_go_to_their_section():
    ledger = Ledger()
    with ledger.iteration(0):
        with ledger.section("network"):
            time.sleep(0.02)
        with ledger.section("geometry"):
            pass
    assert 0.02 <= ledger.seconds["network"] < 1
    assert ledger.seconds["geometry"] < ledger.seconds["network"]
    assert ledger.seconds["transport"] == 0


def test_memory_is_the_most_alive_while_a_section_runs():
    ledger = Ledger()
    with ledger.iteration(TRACED_ITERATION):
        with ledger.section("augment"):
            kept = block(2)
        with ledger.section("network"):
            passing = block(5)
            del passing
            doubled = kept + 1
        with ledger.section("geometry"):
            view = doubled[:10]
    assert {name: peak / MIB for name, peak in ledger.bytes.items() if peak} == {
        "augment": 2,
        "network": 7,  # the first block and the passing one
        "geometry": 4,  # a view is no new memory
    }
    assert len(view) == 10


def test_memory_of_a_backward_pass_is_seen():
    weight = torch.ones(MIB, requires_grad=True)
    ledger = Ledger()
    with ledger.iteration(TRACED_ITERATION):
        with ledger.section("network"):
            loss = (weight * 2).square().sum()
        with ledger.section("optimiser"):
            loss.backward()
    assert ledger.bytes["optimiser"] >= 2 * 4 * MIB


def test_the_traced_iteration_takes_no_time_in_the_account():
    ledger = Ledger()
    for number in range(3):
        with ledger.iteration(number), ledger.section("network"):
            block(1)
    assert ledger.num_measured == 2


def test_a_shared_piece_of_work_is_charged_to_both():
    first, second = Ledger(), Ledger()
    before = first.balance()
    with first.iteration(0), first.section("network"):
        time.sleep(0.01)
    second.charge(first.since(before))
    assert second.seconds == first.seconds


def test_stretches_tell_before_and_after():
    ledger = Ledger()
    for seconds in (3.0, 5.0):
        ledger.num_measured += 1
        ledger.seconds["geometry"] += seconds
    ledger.mark("without spherical")
    ledger.num_measured += 1
    ledger.seconds["geometry"] += 1.0
    begin, end = ledger.stretches()
    assert begin["seconds_per_iteration"]["geometry"] == 4.0
    assert (end["from"], end["seconds_per_iteration"]["geometry"]) == ("without spherical", 1.0)
    again = Ledger()
    again.restore(ledger.state())
    assert again.stretches() == ledger.stretches()


def test_an_accelerator_is_measured_now_and_then(device):
    ledger = Ledger(device, measure_every=4)
    for number in range(8):
        with ledger.iteration(number), ledger.section("network"):
            torch.ones(10, device=device)
    assert ledger.num_measured == (7 if device.type == "cpu" else 2)


def test_a_section_that_does_not_exist_is_a_mistake():
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.iteration(0), ledger.section("kitchen"):
        pass
    assert set(ledger.seconds) == set(COMPONENTS)
