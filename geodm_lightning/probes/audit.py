"""What it costs to look at the sets of a run beside the real images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch

from geodm_lightning.audit.coverage import squared_radii
from geodm_lightning.audit.options import AuditOptions
from geodm_lightning.distilled.storage import is_complete as is_made
from geodm_lightning.memory import held_bytes, traced
from geodm_lightning.networks.network import Network
from geodm_lightning.probes.probe import Alone, ProbeSite, Work, one_training
from geodm_lightning.probes.students import Row, row_of
from geodm_lightning.stages.audit import AUDIT, identity_of, is_complete, set_folder
from geodm_lightning.stages.audit_clouds import MOST_SHOWN, Clouds, Neighbours
from geodm_lightning.stages.audit_images import (
    Seen,
    feature_network,
    real_classes,
    usual_images,
)
from geodm_lightning.stages.run import Run

WARM_UP = 8  # real images that are embedded before the clock is started
PASSED = 1024  # real images of a class that pass by to time all of them; a block of distances


class Passing(NamedTuple):
    """What some real images of one class took to pass by.

    Attributes:
        images: How many.
        embedding: Seconds for their features.
        radii: Seconds for the distances among them, which grow with the square of their number.
        comparing: Seconds for those to the sets and to references.
        memory: Most bytes held meanwhile, beyond those before.
    """

    images: int
    embedding: float
    radii: float
    comparing: float
    memory: int

    def seconds(self, count: int) -> float:
        """Return the seconds that another number of images of a class take."""
        share = count / self.images
        return share * (self.embedding + self.comparing) + share**2 * self.radii


def probe_audit(run: Run) -> Iterator[Work]:
    """Measure the training of the network whose features are compared, and one class passing by.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
    """
    options = AuditOptions.from_settings(run.settings)
    methods = [method for method in run.methods if method.kind != "whole"]
    methods.sort(key=lambda method: not method.is_main)
    if all(is_made(set_folder(run, method)) for method in methods) and is_complete(
        run.folder.path / AUDIT, identity_of(run, methods, options)
    ):
        return
    assert isinstance(run.site, ProbeSite)
    alone = run.site._replace(processes=Alone())
    with alone.watch() as clocks:
        network = feature_network(run._replace(site=alone), options)
    for clock in clocks:
        work = one_training("audit", "train the network whose features are compared", clock)
        yield work._replace(shared=False)
    yield looking_work(run, [row_of(run, method) for method in methods], network, options)


def looking_work(run: Run, rows: list[Row], network: Network, options: AuditOptions) -> Work:
    """Let some real images of one class pass by; extend that to all of them."""
    held = held_bytes(run.site.device)
    began = time.perf_counter()
    usual, usual_indices = usual_images(run, network)
    fixed = time.perf_counter() - began
    seen = [stand_in(row, usual) for row in rows]
    neighbours = Neighbours(seen, usual=usual, usual_indices=usual_indices, options=options)
    clouds = Clouds(seen, options=options, seed=run.seed)
    passing = let_pass(run, network, options, clouds, neighbours)
    most = options.real_per_class or len(run.data.train)
    counts = run.data.train.class_counts.clamp(max=most).tolist()
    queried = sum(len(row.candidate.labels) for row in rows)
    shown = min(run.data.spec.num_classes, MOST_SHOWN) * (1 + options.shown)
    spec = run.data.spec
    return Work(
        "audit",
        f"compare {len(rows)} sets with {sum(counts)} real images",
        steps=len(counts),
        seconds_per_step=sum(map(passing.seconds, counts)) / len(counts),
        fixed_seconds=fixed + queried * passing.embedding / passing.images,
        memory=held + round(passing.memory * max(counts) / passing.images),
        disk=len(rows) * shown * spec.channels * spec.resolution**2,
    )


def stand_in(row: Row, real: Seen) -> Seen:
    """Return as many images as a row has, real ones in its classes: their number is what costs."""
    labels = row.candidate.labels
    chosen = labels.new_tensor(range(len(labels))) % len(real.labels)
    return Seen(real.pixels[chosen], real.features[chosen], labels)


def let_pass(
    run: Run, network: Network, options: AuditOptions, clouds: Clouds, neighbours: Neighbours
) -> Passing:
    """Time some real images of the first class, as they are compared in an audit."""
    device, laps = run.site.device, []
    next(real_classes(run, network, replace(options, real_per_class=WARM_UP)))
    few = replace(options, real_per_class=min(options.real_per_class or PASSED, PASSED))
    with traced(device) as peak:
        laps.append(now(device))
        real = next(real_classes(run, network, few))
        laps.append(now(device))
        count = len(real.indices)
        squared_radii(real.seen.features, neighbours=min(options.neighbours, count - 1))
        laps.append(now(device))
        clouds.update(real)
        neighbours.update(real)
        laps.append(now(device))
    embedding, radii, both = (end - start for start, end in pairwise(laps))
    return Passing(count, embedding, radii, max(0.0, both - radii), peak())


def now(device: torch.device) -> float:
    """Return the seconds of a clock, the device being waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
