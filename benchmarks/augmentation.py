"""What augmentation costs beside a copy of the images, which no operation can beat.

    export OMP_NUM_THREADS=1
    python benchmarks/augmentation.py --output benchmarks/results/augmentation_cpu.json

Every operation alone, forward and, for synthetic images, backward; the moves of whole pixels as
three operations and as one gather of positions composed beforehand; the real images of a step from
8-bit pixels to what a network is shown, of all classes at once and class by class; and the share of
its batches in a student's step. Random pixels; seconds are those of the processor, where there is
no accelerator, medians of turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from courses import random_course
from torch import Tensor
from turns import Meter, clock, tell

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.operations import OPERATIONS
from geodm_lightning.data.table import TensorTable
from geodm_lightning.evaluation.group_size import StepClock
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import LabelledImages

NUM_CLASSES = 10
MOVES = ("flip", "cutout", "crop")
STUDENT_STEPS = 6


class Shape(NamedTuple):
    """Whose images, how many of each class, and whether a gradient goes back through them."""

    dataset: str
    per_class: int
    synthetic: bool


class Student(NamedTuple):
    """Whose images a student learns, ten per class, and how wide it is."""

    dataset: str
    width: int


SHAPES = {
    "CIFAR-10, real": Shape("cifar10", 256, synthetic=False),
    "CIFAR-10, synthetic": Shape("cifar10", 10, synthetic=True),
    "digits, real": Shape("digits", 64, synthetic=False),
    "digits, synthetic": Shape("digits", 10, synthetic=True),
}
STUDENTS = {
    "digits, width 32": Student("digits", 32),
    "CIFAR-10, width 128": Student("cifar10", 128),
}


def reading(device: torch.device) -> Callable[[], float]:
    """Return the clock that other programs disturb least."""
    return time.process_time if device.type == "cpu" else clock(device)


def milliseconds(
    calls: Mapping[str, Callable[[int], Any]], device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the median over all turns but the first; a call is told its turn."""
    meter = Meter(reading(device))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            with meter.section(name):
                call(turn)
    return {name: 1e3 * statistics.median(notes[1:]) for name, notes in meter.notes.items()}


def random_images(shape: Shape, device: torch.device) -> Tensor:
    """Return normalised images ``(C, n, ch, h, w)``."""
    spec = dataset_spec(shape.dataset)
    size = (NUM_CLASSES, shape.per_class, spec.channels, spec.resolution, spec.resolution)
    return torch.randn(size, generator=keyed_generator(0, "benchmark")).to(device)


def operations(shape: Shape, device: torch.device, repeats: int) -> dict[str, Any]:
    """Time every operation on its own: of all classes at once, class by class, and a copy."""
    images = random_images(shape, device).requires_grad_(shape.synthetic)
    pushes, target = torch.randn_like(images), torch.empty_like(images)

    def of_parts(name: str, size: int) -> Callable[[int], None]:
        def call(turn: int) -> None:
            parameters = draws_of(name, turn, device)
            for part in zip(*(x.split(size) for x in (images, parameters, pushes)), strict=True):
                result = OPERATIONS[name].apply(*part[:2])
                if shape.synthetic:
                    result.backward(part[2])

        return call

    def copy(_: int) -> None:
        target.copy_(images.detach())

    ways = {"together": NUM_CLASSES, "class by class": 1}
    calls: dict[str, Callable[[int], Any]] = {"copy": copy}
    calls |= {f"{name}, {way}": of_parts(name, n) for name in OPERATIONS for way, n in ways.items()}
    found = milliseconds(calls, device, repeats)
    return {
        "MB": images.numel() * images.element_size() / 1e6,
        "passes": "forward and backward" if shape.synthetic else "forward",
        "copy, ms": found["copy"],
        "operations": {
            name: {
                **{f"{way}, ms": found[f"{name}, {way}"] for way in ways},
                "together, copies": found[f"{name}, together"] / found["copy"],
            }
            for name in OPERATIONS
        },
    }


def draws_of(name: str, turn: int, device: torch.device) -> Tensor:
    """Return the draws ``(C, k)`` of an operation; what it costs depends on them."""
    shape = (NUM_CLASSES, OPERATIONS[name].num_draws)
    return torch.rand(shape, generator=keyed_generator(0, name, turn)).to(device)


def moves(shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """Time the moves of whole pixels, class by class: one after the other, and as one gather.

    Mirrored, cut and shifted positions are made by the operations themselves, of an image whose
    pixels are their own numbers, so the gather gives what the operations give; making them is not
    timed.
    """
    images = random_images(shape, device)
    side = images.shape[-1]
    numbers = torch.arange(1.0, side**2 + 1, device=device).view(1, 1, 1, side, side)

    def moved(some: Tensor, turn: int, label: int) -> Tensor:
        for name in MOVES:
            draws = draws_of(name, turn, device)[label : label + 1]
            some = OPERATIONS[name].apply(some, draws)
        return some

    labels, turns = range(NUM_CLASSES), range(repeats + 1)
    places = [[moved(numbers, turn, g).flatten(-2).long() for g in labels] for turn in turns]

    def gathered(some: Tensor, turn: int, label: int) -> Tensor:
        own = places[turn][label]
        index = (own - 1).clamp(min=0).expand(*some.shape[:3], -1)
        return some.flatten(-2).gather(-1, index).mul_(own > 0).view_as(some)

    def of_all(way: Callable[[Tensor, int, int], Tensor]) -> Callable[[int], list[Tensor]]:
        return lambda turn: [way(images[g : g + 1], turn, g) for g in labels]

    torch.testing.assert_close(of_all(gathered)(0), of_all(moved)(0), rtol=0, atol=0)
    ways = {"three operations, ms": of_all(moved), "one gather, ms": of_all(gathered)}
    return milliseconds(ways, device, repeats)


def real_side(shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """Time the way of real images from 8-bit pixels to what a network is shown."""
    spec = dataset_spec(shape.dataset)
    size = (2 * NUM_CLASSES * shape.per_class, spec.channels, spec.resolution, spec.resolution)
    generator = keyed_generator(0, "benchmark")
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(2 * shape.per_class)
    table = TensorTable(LabelledImages(pixels, labels), spec).to(device)
    indices, augmentation = table.draw(shape.per_class, generator=generator), Augmentation()
    draws = [
        augmentation.draw(NUM_CLASSES, generator=keyed_generator(0, "draw", turn))
        for turn in range(repeats + 1)
    ]

    def of_parts(size: int) -> Callable[[int], None]:
        def call(turn: int) -> None:
            for start in range(0, NUM_CLASSES, size):
                some = slice(start, start + size)
                images = normalise(table.gather(indices[some]), spec)
                augmentation(images, draws[turn].select(some))

        return call

    calls: dict[str, Callable[[int], Any]] = {
        "gather and normalise, ms": lambda _: normalise(table.gather(indices), spec),
        "and augment, all classes at once, ms": of_parts(NUM_CLASSES),
        "and augment, class by class, ms": of_parts(1),
    }
    return milliseconds(calls, device, repeats)


def batches_of(student: Student, device: torch.device) -> dict[str, float]:
    """Time the batches of a student and its whole steps, those included."""
    spec = dataset_spec(student.dataset)
    num_images = NUM_CLASSES * 10
    course = random_course(spec, num_images, device, steps=STUDENT_STEPS, width=student.width)
    now, seconds = reading(device), []
    batches = iter(course.batches([0]).train_dataloader())
    for _ in range(STUDENT_STEPS):
        started = now()
        next(batches)
        seconds.append(now() - started)
    steps = StepClock(device, time.process_time) if device.type == "cpu" else StepClock(device)
    trainer = Site(device).trainer(max_epochs=1, max_steps=STUDENT_STEPS, callbacks=[steps])
    trainer.fit(course.students([0]), course.batches([0]))
    whole = statistics.median(steps.seconds[1:])
    return {
        "step, ms": 1e3 * whole,
        "batch, ms": 1e3 * statistics.median(seconds[1:]),
        "share of the batch": statistics.median(seconds[1:]) / whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # programs that were running beside this one
    keep_freed_memory()
    device, repeats = torch.device(arguments.device), arguments.repeats
    real = {name: shape for name, shape in SHAPES.items() if not shape.synthetic}
    result = {
        "repeats": repeats,
        "load before": load,
        "threads": torch.get_num_threads(),
        "alone": {name: operations(shape, device, repeats) for name, shape in SHAPES.items()},
        "flip, cutout and crop": {n: moves(shape, device, repeats) for n, shape in real.items()},
        "real images of a step": {
            n: real_side(shape, device, repeats) for n, shape in real.items()
        },
        "students": {name: batches_of(student, device) for name, student in STUDENTS.items()},
        "provenance": provenance(device),
    }
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
