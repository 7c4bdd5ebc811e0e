"""How many students at once: the fastest of those timed, one where a network cannot be stacked."""

import re
from dataclasses import replace

import pytest
import torch

from geodm_lightning.evaluation import group_size as module
from geodm_lightning.evaluation.group_size import AUTO, GAIN, group_size, refusal, soonest
from geodm_lightning.evaluation.together import Course
from geodm_lightning.memory import Room
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.convnet import ConvNet
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site

SITE = Site(torch.device("cpu"))


@pytest.fixture
def course(digits, candidate, tiny_a) -> Course:
    return Course(candidate, digits.test, replace(tiny_a, epochs=1000, batch_size=256), seed=0)


def chosen(together, course, num_students):
    lines = []
    indices = list(range(num_students))
    return group_size(together, course, indices, site=SITE, report=lines.append), lines


def test_auto_takes_what_is_soonest_by_the_times_it_tells(course):
    size, (line,) = chosen(AUTO, course, 4)
    timed = {int(n): float(ms) for ms, n in re.findall(r"([\d.]+) by (\d+)", line)}
    assert list(timed)[:2] == [1, 2]
    assert set(timed) <= {1, 2, 4}
    # All of these divide four students evenly; times are told to a tenth.
    assert timed[size] <= (1 + GAIN) * min(timed.values()) + 0.1
    assert line.startswith(f"students trained at once: {size} ")


@pytest.mark.parametrize(
    ("times", "students", "size"),
    [
        ({1: 1.0, 2: 0.5, 5: 0.4}, 10, 5),
        ({1: 1.0, 2: 0.5, 5: 0.49}, 10, 2),  # hardly faster: fewer are lost by a kill
        ({1: 1.0, 2: 0.5, 5: 0.4}, 6, 2),  # 5 · 0.4 + 1 · 1.0 is no less than 6 · 0.5
        ({1: 1.0, 2: 0.5, 5: 0.3}, 6, 5),
        ({1: 1.0, 2: 0.9, 5: 1.2}, 6, 2),
        ({1: 1.0, 2: 1.1}, 7, 1),
    ],
)
def test_soonest_counts_the_group_that_is_not_filled(times, students, size):
    assert soonest(times, students) == size


@pytest.mark.parametrize(("together", "students", "size"), [(1, 9, 1), (3, 9, 3), (5, 2, 2)])
def test_a_number_is_taken_as_it_is_but_for_the_students_there_are(
    course, together, students, size
):
    assert chosen(together, course, students) == (size, [])


def test_nothing_is_timed_where_it_would_not_pay(course):
    short = course._replace(protocol=replace(course.protocol, epochs=5))
    assert chosen(AUTO, short, 4) == (1, [])
    assert chosen(AUTO, course, 1) == (1, [])


def test_no_more_students_at_once_than_memory_holds(course, monkeypatch):
    need = module._bytes_of_step(course.students([0]).network, torch.zeros(100, 1, 8, 8))
    assert need > 100 * 8 * 8 * 4  # the images alone
    monkeypatch.setattr(module, "room_on", lambda device: Room(6 * need, 3 * need))
    _, (line,) = chosen(AUTO, course, 6)
    assert max(int(n) for n in re.findall(r"by (\d+)", line)) <= 2


def build(name, count=2, resolution=32, **options):
    return [
        build_network(
            name, num_classes=10, channels=3, resolution=resolution,
            generator=keyed_generator(index), **options,
        )
        for index in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("mobilenetv3_small_050", {"drop_rate": 0.5}, "draws random numbers, as dropout does"),
        ("vit_tiny_patch16_224", {"depth": 1}, "cannot be stacked (There is a performance drop"),
        ("convnet", {"width": 4}, None),
        ("resnet_ap10", {"width": 2}, None),
        ("mobilenetv3_small_050", {}, None),
    ],
)
def test_networks_that_cannot_run_as_one_are_told_before(name, options, reason):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    for _ in range(2):  # a warning that PyTorch gives once must not be missed the second time
        found = refusal(build(name, **options), images)
        assert (found is None) if reason is None else (reason in found)
    assert torch.equal(torch.get_rng_state(), state)


class Mixing(ConvNet):
    """Made of layers that run in groups; what it does between them does not."""

    def embed(self, images):
        return super().embed(images).cumsum(1)


def test_a_network_that_mixes_the_stacked_channels_is_found_out():
    shape = {"num_classes": 10, "channels": 3, "resolution": 32, "width": 4}
    networks = [Mixing(**shape, generator=keyed_generator(index)) for index in range(2)]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert refusal(networks, images) == "their network answers otherwise when it is stacked"


def test_one_line_says_why_students_are_trained_one_after_the_other(course):
    dropout = replace(
        course.protocol, network="mobilenetv3_small_050", network_options={"drop_rate": 0.5}
    )
    size, lines = chosen(2, course._replace(protocol=dropout), 3)
    assert size == 1
    assert lines == [
        "students are trained one after the other: their network draws random numbers, as "
        "dropout does"
    ]
