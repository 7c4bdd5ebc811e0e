"""A step of a student's training, Lightning included."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from courses import random_course
from lightning.pytorch.profilers import Profiler
from turns import Meter, clock
from work import FLOAT, MOMENTUM_STEP, Measured, Work, network_flops, shared_out

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.evaluation.group_size import StepClock
from geodm_lightning.evaluation.together import Course
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec

NAME = "student step"
# What Lightning calls the stretches of a step, by the end of the name.
NEXT, FORWARD, BACKWARD, STEP = (
    "train_dataloader_next", "Strategy.training_step", "Strategy.backward",
    "Module.optimizer_step",
)  # fmt: skip


class Sizes(NamedTuple):
    """What a step of a student sees.

    Attributes:
        dataset: Name in the catalog.
        batch: Images of the step.
        width: Channels of the ConvNet.
    """

    dataset: str
    batch: int
    width: int = 128

    @property
    def spec(self) -> DatasetSpec:
        """Shape and classes of the images."""
        return dataset_spec(self.dataset)


class Stretches(Profiler):
    """Notes how long each of Lightning's stretches takes, every time.

    Args:
        now: Tells the time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.notes: dict[str, list[float]] = defaultdict(list)
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Begin a stretch."""
        self._began[action_name] = self.now()

    def stop(self, action_name: str) -> None:
        """End a stretch."""
        self.notes[action_name].append(self.now() - self._began.pop(action_name))

    def after_first(self, ending: str, count: int) -> float:
        """Return what so many stretches of a name took together, the first of them left out."""
        (notes,) = (notes for name, notes in self.notes.items() if name.endswith(ending))
        return sum(notes[1 : count + 1])


def measure(
    sizes: Sizes, device: torch.device, *, precision: str, repeats: int
) -> dict[str, Measured]:
    """Time steps of one student, then so many again stretch by stretch."""
    course = random_course(sizes.spec, sizes.batch, device, steps=repeats + 1, width=sizes.width)
    seconds = statistics.median(fit(course, device, precision))
    return {
        "": Measured(
            seconds,
            parts(course, device, precision, seconds),
            work(course, sizes),
            {**sizes._asdict(), "classes": sizes.spec.num_classes, "images": sizes.batch},
        )
    }


def fit(
    course: Course, device: torch.device, precision: str, profiler: Profiler | None = None
) -> list[float]:
    """Train a student and return the seconds of each step but the first."""
    watch = StepClock(device)
    told = "bf16-mixed" if precision == "bf16" else "32-true"
    site = Site(device, told)
    trainer = site.trainer(max_epochs=1, callbacks=[watch], profiler=profiler)
    trainer.fit(course.students([0]), course.batches([0]))
    return watch.seconds[1:]


def parts(course: Course, device: torch.device, precision: str, seconds: float) -> dict[str, float]:
    """Divide the seconds of a step by Lightning's stretches of several."""
    now = clock(device)
    meter, stretches = Meter(now), Stretches(now)
    fetch = meter.around("fetch", course.candidate.fetch)
    watched = course._replace(candidate=course.candidate._replace(fetch=fetch))
    steps = fit(watched, device, precision, stretches)
    count = len(steps)
    forward, backward = (stretches.after_first(name, count) for name in (FORWARD, BACKWARD))
    fetched = sum(meter.notes["fetch"][1 : count + 1])
    sections = {
        "fetch": fetched,
        "augment": stretches.after_first(NEXT, count) - fetched,
        "forward": forward,
        "backward": backward,
        # Lightning runs the other two inside the optimiser's step.
        "optimiser": stretches.after_first(STEP, count) - forward - backward,
    }
    return shared_out(seconds, sections, sum(steps))


def work(course: Course, sizes: Sizes) -> dict[str, Work]:
    """Count what a step takes at least."""
    spec = sizes.spec
    network = course.students([0]).network
    forward, backward = network_flops(network, spec, trains=True)
    weights = sum(p.numel() for p in network.parameters())
    pixels = sizes.batch * spec.channels * spec.resolution**2
    answers = sizes.batch * spec.num_classes
    moved = {
        "fetch": 2 * pixels,
        "augment": 2 * pixels,
        "forward": pixels + weights + answers,
        "backward": pixels + 2 * weights + answers,
        "optimiser": 5 * weights,  # weights, gradients, moments; two written
    }
    flops = {
        "forward": sizes.batch * forward,
        "backward": sizes.batch * backward,
        "optimiser": MOMENTUM_STEP * weights,
    }
    return {name: Work(flops.get(name, 0), FLOAT * moved[name]) for name in moved}
