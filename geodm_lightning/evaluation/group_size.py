"""How many students to train at once, by measurement."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from geodm_lightning.evaluation.student import fresh_networks
from geodm_lightning.evaluation.together import Course
from geodm_lightning.ledger import Trace
from geodm_lightning.memory import room_on
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.stack import NetworkStack
from geodm_lightning.site import Site

AUTO = "auto"
SIZES = (1, 2, 5, 10, 20, 50)  # groups that are tried, and all students at once
TRIAL_STEPS = 4  # of each, the first of which warms up
TRIAL_SHARE = 0.05  # of the steps to be made, at most, are spent on trials
GAIN = 0.03  # by which a larger group must be faster
AGREEMENT = 1e-3  # of answers, in shares of the largest
Report = Callable[[str], None]


def group_size(
    together: int | str, course: Course, indices: Sequence[int], *, site: Site, report: Report
) -> int:
    """Return how many of some students are to be trained at once.

    Args:
        together: A number, or ``"auto"``: groups of several sizes make a few steps with students
            that are thrown away, and the fastest size is taken.
        course: What the students share.
        indices: Students to be trained.
        site: Where they are trained.
        report: Told in one line what was chosen and why.

    Returns:
        A number from 1 to that of the students.
    """
    most = len(indices)
    if together == 1 or most < 2:
        return 1
    sizes = [size for size in SIZES if size < most] + [most]
    allowance = TRIAL_SHARE * most * course.num_steps / TRIAL_STEPS
    sizes = [n for n, cost in zip(sizes, accumulate(sizes), strict=True) if cost <= allowance]
    if together == AUTO and len(sizes) < 2:
        return 1  # too short a training to be worth a trial
    batch = next(iter(course.batches(indices[:1]).train_dataloader()))
    networks = fresh_networks(
        course.protocol, course.test.spec, seed=course.seed, indices=indices[:2]
    )
    reason = refusal(networks, batch[0][0][:4].cpu())
    if reason is not None:
        report(f"students are trained one after the other: {reason}")
        return 1
    if together != AUTO:
        return min(int(together), most)
    room = room_on(site.device).usable // _bytes_of_step(networks[0], batch[0][0])
    return _fastest([size for size in sizes if size <= max(1, room)], course, indices, site, report)


def _fastest(
    sizes: Sequence[int], course: Course, indices: Sequence[int], site: Site, report: Report
) -> int:
    """Return the smallest of the sizes by which all students are about the soonest done."""
    times: dict[int, float] = {}
    for size in sizes:
        times[size] = _seconds_per_step(course, indices[:size], site) / size
        if times[size] > (1 + 2 * GAIN) * min(times.values()):
            break  # larger ones would be slower still
    chosen = soonest(times, len(indices))
    listed = ", ".join(f"{1e3 * seconds:.1f} by {size}" for size, seconds in times.items())
    report(f"students trained at once: {chosen} (ms per step and student: {listed})")
    return chosen


def soonest(times: Mapping[int, float], num_students: int) -> int:
    """Return the smallest size of groups in which all students are about the soonest done.

    Args:
        times: Seconds per step and student in groups of a size, of 1 at least.
        num_students: How many there are; those that fill no group make a smaller one, whose time
            is that of the next smaller size.

    Example:
        >>> soonest({1: 3.0, 2: 2.0, 5: 1.0}, num_students=5)
        5
        >>> soonest({1: 3.0, 2: 2.0, 5: 1.0, 6: 1.1}, num_students=6)
        6
    """
    totals = {}
    for size, seconds in times.items():
        rest = num_students % size
        left = times[max(n for n in times if n <= rest)] if rest else 0.0
        totals[size] = (num_students - rest) * seconds + rest * left
    return min(size for size, total in totals.items() if total <= (1 + GAIN) * min(totals.values()))


def refusal(networks: Sequence[Network], images: Tensor) -> str | None:
    """Return why networks cannot be run as one, None if they can.

    Args:
        networks: Two or more of one architecture in train mode; statistics of their batch norms
            are changed.
        images: ``(n, ch, h, w)`` on the CPU.
    """
    stack = NetworkStack(networks)
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        expected = torch.stack([network(images) for network in networks])
        if not torch.equal(state, torch.get_rng_state()):
            return "their network draws random numbers, as dropout does"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            logits = stack(images.expand(len(networks), *images.shape))
            logits.sum().backward()
    except (RuntimeError, ValueError, UserWarning) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        return f"their network cannot be stacked ({reason[:160]})"
    if not torch.allclose(logits, expected, rtol=0, atol=AGREEMENT * float(expected.abs().max())):
        return "their network answers otherwise when it is stacked"
    return None


def _bytes_of_step(network: Network, images: Tensor) -> int:
    """Memory of one network's step, of which an optimiser keeps up to four times the weights."""
    network = network.to(images.device)
    with Trace() as trace:
        network(images).sum().backward()
    return trace.peak + 4 * sum(p.nbytes for p in network.parameters())


def _seconds_per_step(course: Course, indices: Sequence[int], site: Site) -> float:
    clock = StepClock(site.device)
    trainer = site.trainer(max_epochs=1, max_steps=TRIAL_STEPS, callbacks=[clock])
    trainer.fit(course.students(indices), course.batches(indices))
    return statistics.median(clock.seconds[1:])


class StepClock(Callback):
    """Times the steps of a training, the making of their batches included.

    Args:
        device: Whose work is waited for.
        now: Tells the time in seconds.

    Attributes:
        seconds: What every step took.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = now
        self._last = 0.0
        self.seconds: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._last = self._now()

    def on_train_batch_end(self, *args: Any) -> None:
        """Note how long the step took."""
        now = self._now()
        self.seconds.append(now - self._last)
        self._last = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
