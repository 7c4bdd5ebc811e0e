"""Training students one after the other, at once, and spread over processes.

    OMP_NUM_THREADS=1 python benchmarks/students.py --output benchmarks/results/students_cpu.json
    python benchmarks/students.py --device cuda --output benchmarks/results/students_gpu.json

Students of protocol A on ten images per class at the shapes of the digits and of CIFAR-10 (random
pixels). Groups of every size make a few steps in turns inside one process of one thread; then as
many students are dealt to processes of one thread each. Times are those of the steps, with the
making of their batches and all of Lightning, without the start of a training and without its
first step. On a GPU a training step of all students is also captured as a CUDA graph and replayed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import multiprocessing
import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import turns
from courses import random_course
from step_graph import captured

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.evaluation.group_size import StepClock
from geodm_lightning.evaluation.together import Course
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance
from geodm_lightning.site import Site

IPC = 10


class Shape(NamedTuple):
    """Whose images, how wide the network is, how many steps of a turn are timed, of how many."""

    dataset: str
    width: int
    steps: int
    students: tuple[int, ...] = (10, 20)


class Seconds(NamedTuple):
    """What some steps took: on the wall, and of the processor, which knows no other programs."""

    wall: float
    processor: float


SHAPES = {
    "digits, width 32": Shape("digits", 32, 16),
    "CIFAR-10, width 32": Shape("cifar10", 32, 3),
    "CIFAR-10, width 128": Shape("cifar10", 128, 1, (10,)),
}


def course_of(shape: Shape, device: torch.device) -> Course:
    """Build students' images, random ones, and their protocol with a step more than is timed."""
    spec = dataset_spec(shape.dataset)
    num_images = IPC * spec.num_classes
    return random_course(spec, num_images, device, steps=shape.steps + 1, width=shape.width)


def seconds_of(course: Course, indices: list[int], size: int, device: torch.device) -> Seconds:
    """Make the steps of students in groups and return the seconds of all."""
    wall = processor = 0.0
    for start in range(0, len(indices), size):
        group = indices[start : start + size]
        clocks = [StepClock(device), StepClock(device, time.process_time)]
        trainer = Site(device).trainer(max_epochs=1, max_steps=course.num_steps, callbacks=clocks)
        trainer.fit(course.students(group), course.batches(group))
        wall += sum(clocks[0].seconds[1:])
        processor += sum(clocks[1].seconds[1:])
    return Seconds(wall, processor)


def in_process(shape: Shape, indices: list[int], size: int) -> Seconds:
    """Do the share of one process, of one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return seconds_of(course_of(shape, torch.device("cpu")), indices, size, torch.device("cpu"))


def spread(
    pool: ProcessPoolExecutor, shape: Shape, num_students: int, processes: int, size: int
) -> Seconds:
    """Deal students to processes and return the seconds of the slowest."""
    shares = [list(range(rank, num_students, processes)) for rank in range(processes)]
    tasks = [pool.submit(in_process, shape, share, min(size, len(share))) for share in shares]
    done = [task.result() for task in tasks]
    return Seconds(max(d.wall for d in done), max(d.processor for d in done))


def measure_shape(shape: Shape, arguments: argparse.Namespace, num_students: int) -> dict[str, Any]:
    """Time every way of training so many students, in turns."""
    device = torch.device(arguments.device)
    course, indices = course_of(shape, device), list(range(num_students))
    sizes = [size for size in (1, 2, 5, 10, 20) if size <= num_students]
    times: dict[str, list[Seconds]] = defaultdict(list)
    for turn in range(arguments.repeats):
        for size in sizes:
            times[f"{size} at once"].append(seconds_of(course, indices, size, device))
        if device.type == "cuda":
            seconds, difference = captured(course, num_students, device)
            times["all at once, captured"].append(Seconds(seconds, seconds))
            if difference > 1e-3:
                raise RuntimeError(f"replayed weights differ by {difference} in turn {turn}")
    found = compared(times, "1 at once", shape.steps * num_students)
    if device.type == "cpu" and arguments.processes:
        best = min(sizes, key=lambda size: found[f"{size} at once"]["ms of the processor"])
        spread_times = time_processes(shape, arguments, num_students, {1, best})
        found |= compared(spread_times, "1 of 1 processes", shape.steps * num_students)
    return found


def time_processes(
    shape: Shape, arguments: argparse.Namespace, num_students: int, sizes: set[int]
) -> dict[str, list[Seconds]]:
    """Time students spread over processes, in turns; the first turn starts them."""
    times: dict[str, list[Seconds]] = defaultdict(list)
    context, most = multiprocessing.get_context("spawn"), max(arguments.processes)
    with ProcessPoolExecutor(most, mp_context=context) as pool:
        spread(pool, shape, most, most, 1)
        for _ in range(arguments.repeats):
            for count in arguments.processes:
                for size in sizes:
                    seconds = spread(pool, shape, num_students, count, size)
                    times[f"{size} of {count} processes"].append(seconds)
    return times


def compared(times: dict[str, list[Seconds]], base: str, steps: int) -> dict[str, Any]:
    """Return milliseconds per step and student, and ratios to a way, medians of the turns."""
    walls = {name: [seconds.wall for seconds in turn] for name, turn in times.items()}
    own = {name: [seconds.processor for seconds in turn] for name, turn in times.items()}
    return {
        name: {
            "ms": 1e3 * statistics.median(walls[name]) / steps,
            "ms of the processor": 1e3 * statistics.median(own[name]) / steps,
            "times faster": turns.ratio(walls, base, name),
            "times less of the processor": turns.ratio(own, base, name),
        }
        for name in times
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--students", type=int, nargs="+", help="those of the shapes if not given")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # programs that were running beside this one
    torch.set_num_threads(1)
    keep_freed_memory()
    measured = {
        name: {
            f"{count} students": measure_shape(SHAPES[name], arguments, count)
            for count in arguments.students or SHAPES[name].students
        }
        for name in arguments.shapes
    }
    result = {
        "ipc": IPC,
        "protocol": "A",
        "threads per process": 1,
        "repeats": arguments.repeats,
        "load before": load,
        "shapes": measured,
        "provenance": provenance(torch.device(arguments.device)),
    }
    turns.tell(result, arguments.output)


if __name__ == "__main__":
    main()
