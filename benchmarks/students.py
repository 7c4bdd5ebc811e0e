"""Training students one after the other, at once, and spread over processes.

    OMP_NUM_THREADS=1 python benchmarks/students.py --output benchmarks/results/students_cpu.json
    python benchmarks/students.py --device cuda --output benchmarks/results/students_gpu.json

Twenty students of protocol A on ten images per class at the shapes of the digits and of CIFAR-10
(random pixels). On a CPU they are dealt to processes of one thread each, and within a process to
groups that are trained by the same steps; every way takes its turn. Times are those of the steps,
with the making of their batches and all of Lightning, without the start of a training and without
its first step. On a GPU groups make their steps in one process, and a training step of all
students is also captured as a CUDA graph and replayed.
"""

from __future__ import annotations

import os

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

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
    """Whose images, how wide the network is, how many steps are timed, sizes of groups tried."""

    dataset: str
    width: int
    steps: int
    sizes: tuple[int, ...]


class Seconds(NamedTuple):
    """What some steps took: on the wall, and of the processor, which knows no other programs."""

    wall: float
    processor: float


class Way(NamedTuple):
    """Processes that share the students, and students of each that are trained at once."""

    processes: int
    size: int

    def __str__(self) -> str:
        several = "processes" if self.processes > 1 else "process"
        return f"{self.processes} {several}, {self.size} at once"


BASE = Way(1, 1)
SHAPES = {
    "digits, width 32": Shape("digits", 32, 8, (1, 2, 5, 10, 20)),
    "CIFAR-10, width 32": Shape("cifar10", 32, 2, (1, 2, 5, 10, 20)),
    "CIFAR-10, width 128": Shape("cifar10", 128, 1, (1, 20)),
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


def in_process(shape: Shape, indices: list[int], size: int) -> tuple[int, Seconds]:
    """Do the share of one process, of one thread, and say which process it was."""
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cpu")
    return os.getpid(), seconds_of(course_of(shape, device), indices, size, device)


def spread(pool: ProcessPoolExecutor, shape: Shape, num_students: int, way: Way) -> Seconds:
    """Deal students to processes and return the seconds of the slowest."""
    shares = [list(range(rank, num_students, way.processes)) for rank in range(way.processes)]
    tasks = [pool.submit(in_process, shape, share, way.size) for share in shares]
    done = [task.result() for task in tasks]
    if len({process for process, _ in done}) < way.processes:
        raise RuntimeError(f"{way}: a process did the shares of two")
    return Seconds(*(max(numbers) for numbers in zip(*(own for _, own in done), strict=True)))


def begin(pool: ProcessPoolExecutor, count: int) -> None:
    """Wait until so many processes have started; one that is late would leave its share to others.

    Starting takes seconds, and the tasks that wait for it a moment.
    """
    started: set[int] = set()
    while len(started) < count:
        tasks = [pool.submit(tell_process) for _ in range(count)]
        started = {task.result() for task in tasks}


def tell_process() -> int:
    """Say which process this is, after long enough for others to be asked too."""
    time.sleep(0.2)
    return os.getpid()


def ways_of(shape: Shape, num_students: int, processes: list[int]) -> list[Way]:
    """Return the ways to be tried: all groups in one process, the extremes in several."""
    ways = [Way(1, size) for size in shape.sizes if size <= num_students]
    for count in processes:
        ways += [Way(count, 1), Way(count, -(-num_students // count))]
    return list(dict.fromkeys(ways))


def on_processes(shape: Shape, arguments: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Time all ways of training students on a CPU, in turns."""
    times: dict[str, list[Seconds]] = defaultdict(list)
    most, context = max(arguments.processes), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(most, mp_context=context) as pool:
        begin(pool, most)
        for _ in range(arguments.repeats):
            for way in ways_of(shape, arguments.students, arguments.processes):
                times[str(way)].append(spread(pool, shape, arguments.students, way))
    return times


def on_gpu(shape: Shape, arguments: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Time groups of students on a GPU, and all of them as a captured graph, in turns."""
    times: dict[str, list[Seconds]] = defaultdict(list)
    device, num_students = torch.device("cuda"), arguments.students
    course, indices = course_of(shape, device), list(range(num_students))
    for turn in range(arguments.repeats):
        for way in ways_of(shape, num_students, [1]):
            times[str(way)].append(seconds_of(course, indices, way.size, device))
        seconds, difference = captured(course, num_students, device)
        times["all at once, captured"].append(Seconds(seconds, seconds))
        if difference > 1e-3:
            raise RuntimeError(f"replayed weights differ by {difference} in turn {turn}")
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--students", type=turns.positive, default=20)
    defaults = ["digits, width 32", "CIFAR-10, width 128"]
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=defaults)
    parser.add_argument("--processes", type=turns.positive, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=turns.positive, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error(turns.NO_CUDA)
    load = os.getloadavg()[0]  # programs that were running beside this one
    torch.set_num_threads(1)
    keep_freed_memory()
    measure = on_gpu if arguments.device == "cuda" else on_processes
    shapes = {name: SHAPES[name] for name in arguments.shapes}
    measured = {
        name: compared(measure(shape, arguments), str(BASE), shape.steps * arguments.students)
        for name, shape in shapes.items()
    }
    result = {
        "ipc": IPC,
        "protocol": "A",
        "students": arguments.students,
        "threads per process": 1,
        "repeats": arguments.repeats,
        "load before": load,
        "shapes": measured,
        "provenance": provenance(torch.device(arguments.device)),
    }
    turns.tell(result, arguments.output)


if __name__ == "__main__":
    main()
