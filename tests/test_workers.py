"""Work on cores of its own: in order, without a graph, the same on any number of threads."""

import threading

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from geodm_lightning.networks import winograd
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.workers import run_alone, run_each
from tests.kernels import needs_kernels


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads):
    assert run_each(lambda number: number**2, range(20)) == [number**2 for number in range(20)]
    assert run_each(abs, []) == []


def test_every_item_has_a_core_and_the_caller_keeps_its_own(threads):
    inside = run_each(lambda _: (torch.get_num_threads(), threading.get_ident()), range(12))
    assert {count for count, _ in inside} == {1}
    assert (threading.get_ident() in {name for _, name in inside}) == (threads == 1)
    assert torch.get_num_threads() == threads
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [threads]  # what starts afterwards takes over the caller's number


def test_work_alone_has_one_core(threads):
    assert run_alone(torch.get_num_threads) == 1
    assert torch.get_num_threads() == threads
    leaf = torch.ones(3, requires_grad=True)
    assert not run_alone(lambda: leaf * 2).requires_grad
    with pytest.raises(ZeroDivisionError):
        run_alone(lambda: 1 / 0)


def test_no_graph_is_made(threads):
    leaf = torch.ones(3, requires_grad=True)
    assert not any(result.requires_grad for result in run_each(lambda k: leaf * k, range(4)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_tensors_of_the_caller_can_be_written(threads, mode):
    with mode():
        result = torch.zeros(8)
        run_each(lambda k: result[k].fill_(k), range(8))
        torch.testing.assert_close(result, torch.arange(8.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_threads_compute_in_the_precision_of_their_caller(threads, dtype):
    square = torch.ones(8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = run_each(lambda _: square @ square, range(4))
        found.append(run_alone(lambda: square @ square))
    assert {product.dtype for product in found} == {dtype}


def test_a_mistake_reaches_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        run_each(lambda number: 1 / number, [1, 2, 0, 3])


def test_a_counter_of_operations_sees_all_of_them(threads):
    square = torch.ones(4, 4)
    with FlopCounterMode(display=False) as counter:
        run_each(lambda _: square @ square, range(5))
        counts = {*run_each(lambda _: torch.get_num_threads(), range(2))}
        assert run_alone(torch.get_num_threads) == 1
    assert counter.get_total_flops() == 5 * 2 * 4**3
    assert counts == {1}  # short operations, whoever follows them
    assert torch.get_num_threads() == threads


@needs_kernels
def test_features_and_derivatives_do_not_depend_on_the_number_of_threads():
    generator = keyed_generator(0, "test", 0)
    network = build_network(
        "convnet", num_classes=3, channels=3, resolution=32, generator=generator
    )
    images = torch.randn(70, 3, 32, 32, generator=generator)
    maps = torch.randn(40, 128, 16, 16, generator=generator)
    weight = torch.randn(128, 128, 3, 3, generator=generator)
    found = []
    before = torch.get_num_threads()
    for count in (1, 4):
        torch.set_num_threads(count)
        with torch.no_grad():
            features = network.embed(images)
        leaves = [tensor.clone().requires_grad_() for tensor in (maps, weight)]
        result = winograd.convolve(*leaves, padding=1)
        of_weight, of_maps = torch.autograd.grad(result, leaves[::-1], maps)
        found.append((features, result.detach(), of_weight, of_maps))
    torch.set_num_threads(before)
    for one, four in zip(*found, strict=True):
        assert torch.equal(four, one)
