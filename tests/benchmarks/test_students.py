"""Ways of training students, and what they learn in benchmarks."""

from argparse import Namespace

import pytest
import torch

from geodm_lightning.data.catalog import dataset_spec

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("num_images", "asked", "batches"), [(100, 3, [100] * 3), (300, 3, [256, 44] * 2)]
)
def test_course_is_as_long_as_asked_and_sees_all_classes(num_images, asked, batches):
    from courses import random_course

    course = random_course(dataset_spec("digits"), num_images, CPU, steps=asked, width=8)
    assert course.num_steps == len(batches) >= asked
    found = [own for (own,) in course.batches([0]).train_dataloader()]
    assert [len(images) for images, _ in found] == batches
    assert set(found[0][1].tolist()) == set(range(10))


def test_ways_are_groups_in_one_process_and_the_extremes_in_several():
    from students import BASE, SHAPES, Way, ways_of

    ways = ways_of(SHAPES["digits, width 32"], 20, [1, 2, 4])
    assert ways == [
        Way(1, 1), Way(1, 2), Way(1, 5), Way(1, 10), Way(1, 20),
        Way(2, 1), Way(2, 10), Way(4, 1), Way(4, 5),
    ]  # fmt: skip
    assert [str(way) for way in ways if way == BASE] == ["1 process, 1 at once"]
    assert ways_of(SHAPES["CIFAR-10, width 128"], 3, [2]) == [Way(1, 1), Way(2, 1), Way(2, 2)]


def test_times_are_of_a_step_and_ratios_those_of_a_turn():
    from students import Seconds, compared

    times = {"one": [Seconds(8.0, 4.0), Seconds(2.0, 2.0)], "two": [Seconds(2.0, 1.0)] * 2}
    found = compared(times, "one", steps=100)
    assert found["one"]["ms"] == 50
    assert found["two"]["ms of the processor"] == 10
    assert found["two"]["times faster"] == 2.5  # of 4 and 1
    assert found["two"]["times less of the processor"] == 3


@pytest.mark.slow
def test_shares_are_done_by_processes_of_their_own():
    from students import Shape, on_processes

    shape = Shape("digits", 8, 1, (1,))
    times = on_processes(shape, Namespace(processes=[1, 2], students=3, repeats=1))
    assert list(times) == [
        "1 process, 1 at once", "1 process, 3 at once",
        "2 processes, 1 at once", "2 processes, 2 at once",
    ]  # fmt: skip
    assert all(seconds.processor > 0 for (seconds,) in times.values())
