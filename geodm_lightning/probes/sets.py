"""What it costs to make the sets of a run that are learned or chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from geodm_lightning import assembly
from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.distillers.fitting import FittingSettings
from geodm_lightning.distillers.loop import IterationStream, Lockstep, Member
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.selection import herding_selection
from geodm_lightning.distillers.state import capture
from geodm_lightning.memory import (
    Room,
    Slope,
    gigabytes,
    held_bytes,
    room_on,
    slope_of,
    traced,
)
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone, ProbeSite, StepClock, Work
from geodm_lightning.stages.run import Run

HERDED = 64  # real images of a class that are embedded to time all of them
FITTED = (2, 5)  # steps of a fit of the geometry, whose difference is timed


def training_work(what: str, clocks: list[StepClock], *, processes: int) -> Iterator[Work]:
    """Yield the cost of the alike trainings that a block has begun, dealt out to processes."""
    if clocks:
        rounds, clock = -(-len(clocks) // processes), clocks[0]
        yield Work(
            "distill",
            f"{what} ({len(clocks)})",
            steps=rounds * clock.planned,
            seconds_per_step=clock.per_step,
            fixed_seconds=rounds * clock.began,
            memory=clock.memory,
        )


def probe_matching(run: Run, methods: list[Method]) -> Iterator[Work]:
    """Measure the rows that are learned in lockstep, after the networks they look through.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
        methods: Rows that share real features and are not finished.
    """
    site, settings = run.site, methods[0].settings
    assert isinstance(site, ProbeSite)
    alone = site._replace(processes=Alone())
    with alone.watch() as clocks:
        real = assembly.build_real_features(settings, run.data, alone)
    size = site.processes.world_size
    yield from training_work("train networks", clocks, processes=size)
    fitting = 0.0
    members = []
    for method in methods:
        distiller, seconds = build_timed(run, method, real)
        fitting += seconds
        path = run.folder.checkpoint(method.key, is_main=method.is_main)
        distiller.iteration = int(load_checkpoint(path)["iteration"]) if path.is_file() else 0
        members.append(Member(distiller, path))
    yield lockstep_work(run, methods, members, fitting=fitting)


def build_timed(run: Run, method: Method, real: RealFeatures) -> tuple[MatchingDistiller, float]:
    """Build a distillation; where its geometry is fitted first, tell the seconds of all of it."""
    settings = method.settings
    if settings["geometry"].get("learning") != "from_real":
        return assembly.build_distiller(settings, run.data, run.site, real), 0.0
    spent = []
    for steps in FITTED:
        schedule = {**settings["schedule"], "max_iterations": steps}
        began = time.perf_counter()
        distiller = assembly.build_distiller(
            {**settings, "schedule": schedule}, run.data, run.site, real
        )
        spent.append(time.perf_counter() - began)
    each = (spent[1] - spent[0]) / (FITTED[1] - FITTED[0])
    wanted = min(FittingSettings().num_steps, assembly.num_iterations(settings))
    return distiller, max(0.0, each) * wanted


def lockstep_work(
    run: Run, methods: list[Method], members: list[Member], *, fitting: float
) -> Work:
    """Time iterations of all rows together, at the number of classes at once that fits."""
    site, settings = run.site, methods[0].settings
    assert isinstance(site, ProbeSite)
    distillers = [member.distiller for member in members]
    total = assembly.num_iterations(settings)
    first = min(distiller.iteration for distiller in distillers)
    slope = lockstep_slope(distillers, site.device)
    advice = fit_to_memory(distillers, settings, slope=slope, room=room_on(site.device))
    with site.watch() as clocks:
        trainer = site.trainer(max_epochs=1)
        trainer.fit(Lockstep(members), IterationStream(first, total))
    (clock,) = clocks
    began = time.perf_counter()
    sizes = [saved_bytes(distiller) for distiller in distillers]
    saving = time.perf_counter() - began
    every = settings["distiller"]["checkpoint_every"]
    labels = ", ".join(method.label for method in methods)
    owned = distillers[0].processes.shard(distillers[0].num_classes)
    most = -(-distillers[0].num_classes // site.processes.world_size)
    return Work(
        "distill",
        f"learn {labels}",
        steps=total - first,
        done=first,
        seconds_per_step=clock.per_step * most / max(1, owned.stop - owned.start),
        fixed_seconds=fitting + clock.began + saving * -(-(total - first) // every),
        memory=clock.memory,
        disk=sum(sizes) + len(methods) * set_bytes(run),
        advice=advice,
    )


def fit_to_memory(
    distillers: list[MatchingDistiller], settings: dict[str, Any], *, slope: Slope, room: Room
) -> str:
    """Lower the classes at once of distillations until they fit, and say so.

    Args:
        distillers: Those that run in lockstep.
        settings: Of one of their rows.
        slope: What classes at once cost.
        room: Bytes there are.

    Returns:
        What to set, empty where the configured number fits.
    """
    wanted = classes_at_once(distillers[0])
    if slope.at(wanted) <= room.usable:
        return ""
    fitting = slope.largest(room.usable)
    for distiller in distillers:
        distiller.sizes = distiller.sizes._replace(classes_per_step=max(1, fitting))
    return advice_of(settings, slope, wanted, room)


def classes_at_once(distiller: MatchingDistiller) -> int:
    """Return the classes of this process that are held at once."""
    owned = distiller.processes.shard(distiller.num_classes)
    return min(distiller.sizes.classes_per_step, max(1, owned.stop - owned.start))


def matching_slope(distiller: MatchingDistiller, device: torch.device) -> Slope:
    """Measure what matching one class more at once costs in memory, by one and two classes.

    What does not grow by the class is that of all images of this process: beside their gradient
    another one, as autograd adds to it those of the next classes, and two moments of an optimiser.
    """
    kept = distiller.manual_backward
    distiller.manual_backward = torch.Tensor.backward  # type: ignore[method-assign]
    first = distiller.processes.shard(distiller.num_classes).start

    def needs(count: int) -> int:
        with traced(device) as peak:
            distiller.match(slice(first, first + count), 0)
        distiller.zero_grad(set_to_none=True)
        return peak()

    owned = distiller.processes.shard(distiller.num_classes)
    try:
        needs(1)  # makes the network of the iteration, which is held once
        slope = slope_of(needs, 1, min(2, owned.stop - owned.start))
        return slope._replace(base=slope.base + beside_pixels(distiller))
    finally:
        distiller.manual_backward = kept  # type: ignore[method-assign]


def beside_pixels(distiller: MatchingDistiller) -> int:
    """Return the bytes of three values beside every learned pixel of this process."""
    return 3 * distiller.synthetic.pixels.nbytes


def lockstep_slope(distillers: Sequence[MatchingDistiller], device: torch.device) -> Slope:
    """Measure what rows in lockstep cost: the dearest one, and what the others hold meanwhile."""
    slopes = [matching_slope(distiller, device) for distiller in distillers]
    dearest = max(slopes, key=lambda slope: slope.at(classes_at_once(distillers[0])))
    others = sum(map(beside_pixels, distillers[1:]))
    return dearest._replace(base=dearest.base + others)


def advice_of(settings: dict[str, Any], slope: Slope, wanted: int, room: Room) -> str:
    """Say which setting to lower to what, from what a class costs."""
    start = f"{wanted} classes at once need {gigabytes(slope.at(wanted))}, "
    start += f"{room.told()}: "
    fitting = min(slope.largest(room.usable), wanted - 1)
    if fitting >= 1:
        return f"{start}lower distiller.classes_per_step to {fitting}"
    batch = assembly.real_batch(settings)
    fewer = int(batch * room.usable / max(1, slope.at(1)))
    if fewer >= 1:
        return (
            f"{start}lower distiller.real_batch to {fewer}, which changes the method, with "
            "distiller.classes_per_step=1"
        )
    return f"{start}no real batch fits; use a smaller network or a larger device"


def saved_bytes(distiller: MatchingDistiller) -> int:
    """Write a checkpoint that is thrown away; return its size."""
    with TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder) / "probe.ckpt", capture(distiller))
        return path.stat().st_size


def set_bytes(run: Run, *, bytes_per_pixel: int = 4) -> int:
    """Return what the images of a set take on disk."""
    spec = run.data.spec
    pixels = spec.channels * spec.resolution**2
    return spec.num_classes * run.settings["ipc"] * pixels * bytes_per_pixel


def probe_selection(run: Run, methods: list[Method]) -> Iterator[Work]:
    """Measure the rows that choose real images; only herding costs anything worth telling."""
    if methods:
        yield Work("distill", "choose real images", steps=0, disk=len(methods) * set_bytes(run))
    if not any(method.key == "herding" for method in methods):
        return
    assert isinstance(run.site, ProbeSite)
    alone = run.site._replace(processes=Alone())
    with alone.watch() as clocks:
        network = assembly.herding_network(run.settings, run.data, alone)
    yield from training_work("train the network of herding", clocks, processes=1)
    few = run.data.train.head(max(HERDED, run.settings["ipc"]))
    few.to(run.site.device)
    began = time.perf_counter()
    herding_selection(few, network, ipc=run.settings["ipc"])
    each = (time.perf_counter() - began) / len(few)
    yield Work(
        "distill",
        "embed real images for herding",
        steps=len(run.data.train),
        seconds_per_step=each,
        memory=held_bytes(run.site.device),
    )
