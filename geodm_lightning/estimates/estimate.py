"""Hours, memory and disk of a run, before it is started."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from geodm_lightning import assembly, processes
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.heap import set_up_heap
from geodm_lightning.memory import available_bytes, explained, gigabytes
from geodm_lightning.methods import Method
from geodm_lightning.pipeline import Prepared, folder_of, prepare
from geodm_lightning.probes.audit import probe_audit
from geodm_lightning.probes.labels import probe_labels
from geodm_lightning.probes.memory_advice import memory_advice
from geodm_lightning.probes.probe import Alone, ProbeSite, Work
from geodm_lightning.probes.report import probe_report
from geodm_lightning.probes.samples import probe_generation
from geodm_lightning.probes.scores import probe_scores
from geodm_lightning.probes.sets import probe_matching, probe_selection
from geodm_lightning.probes.students import probe_students
from geodm_lightning.provenance import provenance
from geodm_lightning.settings import STAGES
from geodm_lightning.stages.run import Run

COPIED = 2**32  # bytes of cached latents, which are written in place, that are copied at most


class Estimate(NamedTuple):
    """What a run will still cost.

    Attributes:
        name: Name of the run.
        works: Its parts, over all seeds.
        processes: Processes that share them.
        available_memory: Bytes a process may take.
        free_disk: Bytes free where the run writes.
        machine: Versions and device.
    """

    name: str
    works: tuple[Work, ...]
    processes: int
    available_memory: int
    free_disk: int
    machine: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of everything that is still to be done."""
        return sum(work.seconds for work in self.works)

    @property
    def memory(self) -> int:
        """Most bytes of a process."""
        return max((work.memory for work in self.works), default=0)

    @property
    def disk(self) -> int:
        """Bytes still to be written."""
        return sum(work.disk for work in self.works)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change before starting, a line each."""
        lines = list(dict.fromkeys(work.advice for work in self.works if work.advice))
        if self.disk > self.free_disk:
            lines.append(
                f"{gigabytes(self.disk)} will be written, {gigabytes(self.free_disk)} are free: "
                "choose another run_dir, or teachers.kind=int8 or topk"
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: parts, sums and machine."""
        return {
            "name": self.name,
            "hours": self.seconds / 3600,
            "device_hours": self.seconds * self.processes / 3600,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "processes": self.processes,
            "available_memory_bytes": self.available_memory,
            "free_disk_bytes": self.free_disk,
            "advice": list(self.advice),
            "works": [{**work._asdict(), "seconds": work.seconds} for work in self.works],
            "provenance": self.machine,
        }


def estimate(config: DictConfig) -> Estimate:
    """Build a run as it would be built, time a few steps of each part, and extend them.

    What an earlier start has made is taken off. Networks and models that would be trained are
    trained for a few steps in a folder that is thrown away; nothing else is written.

    Args:
        config: Composed Hydra configuration.

    Returns:
        The estimate for the configured processes and seeds.

    Raises:
        InputError: If the run would be refused.
    """
    began = time.monotonic()
    prepared = prepare(config, device=torch.device("cpu"))
    settings = prepared.settings
    own = processes.own_device(prepared.accelerator)
    prepared.data.train.to(own)
    prepared.data.test.to(own)
    world = int(os.environ.get("WORLD_SIZE", settings["trainer"]["devices"]))
    set_up_heap()
    if (threads := threads_of(settings, world)) is not None:
        torch.set_num_threads(threads)
    site = ProbeSite(own, settings["trainer"]["precision"], Alone(0, world))
    available = available_bytes(own)
    loading = LOADED + time.monotonic() - began
    start = Work("start", "load libraries and data", steps=0, fixed_seconds=loading)
    works = [start]
    with TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        cache = mirrored(Path(settings["cache_dir"]), Path(folder) / "cache")
        template: list[Work] | None = None
        for seed in prepared.seeds:
            fresh = not folder_of(settings, seed).path.is_dir()
            if fresh and template is not None:
                works += [work for work in template if not work.shared]
                continue
            run = run_of(prepared, seed, site, cache)
            found = works_of(run, Path(folder) / str(seed))
            template = found if fresh else template
            works += found
    run_dir = next(p for p in Path(settings["run_dir"]).absolute().parents if p.is_dir())
    return Estimate(
        name=settings["name"],
        works=tuple(works),
        processes=world,
        available_memory=available,
        free_disk=shutil.disk_usage(run_dir).free,
        machine=provenance(own),
    )


def threads_of(settings: dict[str, Any], world: int) -> int | None:
    """Return the CPU threads of a process, None to leave them as they are."""
    if settings["trainer"]["threads"] is not None:
        return int(settings["trainer"]["threads"])
    if world == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // world)


def run_of(prepared: Prepared, seed: int, site: ProbeSite, cache: Path) -> Run:
    """Return the run of one seed as the probes see it: its own folder, another cache."""
    settings = {**prepared.settings, "seed": seed, "cache_dir": str(cache)}
    return Run(settings, folder_of(prepared.settings, seed), prepared.data, site)


def works_of(run: Run, folder: Path) -> list[Work]:
    """Return the parts of one seed that are still to be done.

    Args:
        run: The run, on a :class:`ProbeSite`.
        folder: Where files may be written and are thrown away.

    Raises:
        InputError: If memory runs out in a part, naming what to lower.
    """
    found = list[Work]()
    parts: dict[str, Callable[[Run], Iterator[Work]]] = {
        "distill": works_of_sets,
        "relabel": partial(probe_labels, folder=folder),
        "evaluate": probe_students,
        "audit": probe_audit,
        "score": probe_scores,
        "report": probe_report,
    }
    for stage in STAGES:
        if stage in run.settings["stages"]:
            measure = partial(_collect, found, parts[stage], run)
            explained(stage, measure, partial(memory_advice, run, stage))
    return found


def _collect(found: list[Work], part: Callable[[Run], Iterator[Work]], run: Run) -> None:
    found.extend(part(run))


def works_of_sets(run: Run) -> Iterator[Work]:
    """Yield what making the sets still costs."""
    waiting = [
        method
        for method in run.methods
        if method.kind != "whole"
        and not is_complete(run.folder.distilled(method.key, is_main=method.is_main))
    ]
    yield from probe_selection(run, [m for m in waiting if m.kind == "selection"])
    groups: dict[str, list[Method]] = {}
    for method in waiting:
        if method.kind == "matching":
            groups.setdefault(assembly.sharing_key(method.settings), []).append(method)
    for methods in groups.values():
        yield from probe_matching(run, methods)
    sampled = [method for method in waiting if method.kind == "generation"]
    if sampled:
        yield from probe_generation(run, sampled)


def mirrored(cache: Path, copy: Path) -> Path:
    """Make a cache that holds what another one does, and whose changes leave that alone.

    Files are linked; they are replaced and never written in place, but for latents, which are
    copied where they are not too large.
    """
    copy.mkdir(parents=True)
    for path in cache.rglob("*"):
        target = copy / path.relative_to(cache)
        if not path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if "latents" not in path.relative_to(cache).parts:
            target.symlink_to(path.absolute())
        elif sum(file.stat().st_size for file in path.parent.iterdir()) <= COPIED:
            shutil.copyfile(path, target)
    return copy


def process_age() -> float:
    """Return the seconds since this process was started, as Linux tells them; else 0."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return 0.0
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    began = ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)


LOADED = process_age()  # seconds until here: what a run, too, spends on its libraries
