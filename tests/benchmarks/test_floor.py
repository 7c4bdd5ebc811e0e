"""Operations, bytes and rates behind the floor, against closed forms and references."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.randomness import keyed_generator

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
# Products of a 3×3 convolution, of ConvNet-3 at 32 px: 3 → 128 on 32², then 128 → 128 twice.
FIRST = 2 * 9 * 3 * 128 * 32**2
OTHERS = 2 * 9 * 128 * 128 * (16**2 + 8**2)
MAPS = 128 * (32**2 + 16**2 + 8**2)
CLASSIFIER = 2 * 2048 * 10


def test_network_is_counted_in_its_direct_form():
    from steps import build
    from work import NORMALISATION, network_flops

    spec = dataset_spec("cifar10")
    network = build(spec, keyed_generator(0, "network"))
    beside = NORMALISATION * MAPS
    forward, backward = network_flops(network, spec, trains=False)
    assert forward == FIRST + OTHERS + beside
    assert backward == FIRST + OTHERS + 2 * beside  # to the images, weights being frozen
    forward, backward = network_flops(network, spec, trains=True)
    assert forward == FIRST + OTHERS + CLASSIFIER + beside
    assert backward == FIRST + 2 * (OTHERS + CLASSIFIER) + 2 * beside  # to the weights alone
    assert next(network.parameters()).device == CPU  # which were copied, not moved


def test_step_is_the_network_and_its_transport():
    from kernels import matching
    from steps import Sizes, Steps
    from work import NORMALISATION, total

    sizes = Sizes("cifar10", classes=2, real_batch=4, ipc=3)
    own = matching.work(Steps(CPU, sizes).ours(geometric=True), sizes)
    forward, backward = (FIRST + OTHERS + times * NORMALISATION * MAPS for times in (1, 2))
    assert own["network"].flops == 14 * forward + 6 * backward
    gram = 2 * 2 * 4 * 3 * 2048
    assert 2 * gram <= own["transport"].flops < 4 * gram  # forward, backward, some rounds
    images = 3 * 32**2
    assert own["augment"].bytes == 8 * 5 * images + 6 * 16 * images
    assert total(own).bytes == sum(part.bytes for part in own.values())


def test_published_network_embeds_as_ours():
    from steps import build, published_network

    spec = dataset_spec("tiny_imagenet")
    ours = build(spec, keyed_generator(0, "a")).requires_grad_(False)
    published = published_network(spec, keyed_generator(0, "b")).requires_grad_(False)
    for theirs, own in zip(published.parameters(), ours.blocks.parameters(), strict=True):
        theirs.copy_(own)
    images = torch.randn(3, 3, 64, 64, generator=keyed_generator(0, "images"))
    expected = published(images)
    bound = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(ours.embed(images), expected, rtol=0, atol=bound)


def test_products_of_a_sampler_step_are_those_of_the_transformer():
    from kernels import sampling

    sizes = sampling.Sizes("tiny", (4, 8, 8), batch=2, ipc=3)
    own = sampling.Sampling(sizes, CPU, "float32")
    with FlopCounterMode(display=False) as counter:
        found = own.sections(sampling.Meter(counter.get_total_flops))
        whole = counter.get_total_flops()
    hidden, depth, tokens = 192, 4, 16
    block = 2 * (12 * tokens + 6) * hidden**2 + 4 * tokens**2 * hidden
    denoised = sampling.NUM_STEPS * 2 * sizes.batch * depth * block  # with and without the class
    assert denoised < found["denoiser"] < 1.2 * denoised  # embeddings and last layer beside
    assert found["denoiser"] + found["guidance"] == whole


def test_floor_is_the_longer_of_computing_and_moving():
    from floor import beside_floor
    from machine import Machine
    from work import Work

    machine = Machine({"float32": 100.0, "bf16": 400.0}, memory=10.0, cache=50.0, cache_bytes=64)
    assert machine.bounds(Work(1000, 64), "float32") == (10, 64 / 50)  # what the cache holds
    assert machine.bounds(Work(1000, 65), "bf16") == (2.5, 6.5)
    found = beside_floor(13.0, Work(1000, 65), "bf16", machine)
    assert (found["bound by"], found["floor seconds"], found["time / floor"]) == ("bytes", 6.5, 2)
    found = beside_floor(5.0, Work(1000, 65), "float32", machine)
    assert (found["bound by"], found["time / floor"]) == ("operations", 0.5)
    assert machine.no_bf16 is None
    slow = machine._replace(products={"float32": 100.0, "bf16": 50.0})
    assert slow.no_bf16 == "products in bf16 run at 0.50 of the rate of float32"
    assert slow.bounds(Work(1000, 65), "bf16") == (10, 6.5)  # multiplied as float32
    assert slow.best(machine._replace(cache=1.0)).products == machine.products
    assert slow.best(machine._replace(cache=1.0)).cache == 50


def test_components_divide_the_seconds():
    from work import shared_out

    assert shared_out(6.0, {"a": 2.0, "b": 0.5}, 4.0) == {"a": 3.0, "b": 0.75, "rest": 2.25}


def test_meter_notes_what_happens_inside():
    from turns import Meter

    ticks = iter(range(0, 100, 10))
    meter, owner = Meter(lambda: next(ticks)), Namespace(call=lambda x: x + 1)
    with meter.on(owner, "call", "call"):
        assert owner.call(1) == 2
    assert owner.call(1) == 2  # not noted any more
    with meter.section("block"):
        next(ticks)
    with meter.section("block"):
        pass
    assert meter.sums() == {"call": 10, "block": 30}


def test_data_sets_of_one_ot_loss_share_it_and_it_is_float32_alone():
    import floor

    shapes = floor.SHAPES["cpu"]
    cifar, imagenet, tiny = (
        {case.kernel: case for case in floor.cases(shapes[name], 10, "float32")}
        for name in ("CIFAR-10", "ImageNet-128", "Tiny-ImageNet")
    )
    assert list(cifar) == list(floor.KERNELS)
    assert {kernel for kernel in cifar if cifar[kernel] == imagenet[kernel]} == {"OT loss"}
    assert cifar["OT loss"].sizes == (10, 256, 10)
    assert tiny["OT loss"].sizes == (200, 256, 10)
    assert "OT loss" not in {case.kernel for case in floor.cases(shapes["CIFAR-10"], 10, "bf16")}
    more = {case.kernel: case for case in floor.cases(shapes["Tiny-ImageNet"], 50, "float32")}
    assert tiny["student step"] == more["student step"]  # both fill a batch


def test_given_sizes_take_the_place_of_those_of_the_device():
    import floor

    given = {"classes": 3, "real_batch": None, "student_batch": 7}
    chosen = floor.shapes_of(Namespace(device="cpu", shapes=["Tiny-ImageNet"], **given))
    assert list(chosen) == ["Tiny-ImageNet"]
    usual = floor.SHAPES["cpu"]["Tiny-ImageNet"]
    assert chosen["Tiny-ImageNet"] == usual._replace(classes=3, student_batch=7)


@pytest.mark.slow
def test_command_measures_and_draws(tmp_path):
    results = tmp_path / "floor.json"
    small = ["--classes", "1", "--real-batch", "2", "--student-batch", "2", "--repeats", "1"]
    command = [sys.executable, "benchmarks/floor.py", "--shapes", "CIFAR-10", "--ipcs", "1", *small]
    subprocess.run([*command, "--output", str(results)], cwd=ROOT, check=True)
    content = json.loads(results.read_text())
    assert [(row["kernel"], row["variant"]) for row in content["rows"]] == [
        ("matching step", "DM"), ("matching step", "GeoDM"), ("OT loss", ""),
        ("sampler step", ""), ("student step", ""),
    ]  # fmt: skip
    for row in content["rows"]:
        shares = sum(part["seconds"] for part in row["parts"].values())
        assert shares >= row["seconds"] * (1 - 1e-9)
        assert row["time / floor"] == pytest.approx(row["seconds"] / row["floor seconds"])
    figure = [sys.executable, "benchmarks/floor_figure.py", str(results)]
    subprocess.run(figure, cwd=ROOT, check=True)
    assert results.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device")
def test_a_missing_gpu_is_refused(monkeypatch, capsys):
    import floor

    monkeypatch.setattr(sys, "argv", ["floor.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        floor.main()
    assert stopped.value.code == 2
    assert "no CUDA device here; leave --device out" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--repeats", "0"], ["--kernels", "step"], ["--ipcs", "-1"]])
def test_wrong_arguments_are_refused(wrong, monkeypatch, capsys):
    import floor

    monkeypatch.setattr(sys, "argv", ["floor.py", *wrong])
    with pytest.raises(SystemExit) as stopped:
        floor.main()
    assert stopped.value.code == 2
    assert wrong[1] in capsys.readouterr().err
