"""What it costs to label the views of the sets of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.data.views import draw, render
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.views import view_recipe
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.memory import (
    Fit,
    fitting_batch,
    held_bytes,
    room_on,
    traced,
)
from geodm_lightning.probes.probe import Alone, ProbeSite, Work, one_training
from geodm_lightning.probes.students import Row, rows_of
from geodm_lightning.stages.relabel import MOST_ASKED
from geodm_lightning.stages.run import Run


def probe_labels(run: Run, *, folder: Path) -> Iterator[Work]:
    """Measure the training of teachers and the labelling of the views of every set.

    Args:
        run: The run, on a :class:`ProbeSite`, its caches being copies.
        folder: Where labels may be written and are thrown away.
    """
    site = run.site
    assert isinstance(site, ProbeSite)
    alone = site._replace(processes=Alone())
    with alone.watch() as clocks:
        pools = assembly.build_pools(run.settings, run.data, alone)
    for clock in clocks:
        yield one_training("relabel", "train a teacher", clock)
    if not pools or run.settings["teachers"]["labels"] == "online":
        return
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    sets = [row for row in rows_of(run) if row.method.kind != "whole"]
    for kind, pool in pools.items():
        yield labelling_work(run, sets, pool, kind, protocol, folder / kind)


def labelling_work(
    run: Run, rows: list[Row], pool: TeacherPool, kind: str, protocol: Protocol, folder: Path
) -> Work:
    """Time the labelling of one batch, and the writing of one epoch."""
    candidate = rows[0].candidate
    fit, each, logits = timed_labels(run, candidate, pool, protocol)
    store = assembly.open_store(
        run.settings,
        candidate,
        pool,
        protocol,
        spec=run.data.spec,
        seed=run.seed,
        folder=folder,
    )
    began = time.perf_counter()
    store.write(0, logits[torch.arange(store.num_views) % len(logits)])
    writing = time.perf_counter() - began
    missing = {row.method.key: missing_epochs(run, row, kind, protocol) for row in rows}
    views = sum(missing[row.method.key] * len(row.candidate.labels) for row in rows)
    asked = min(MOST_ASKED, len(candidate.labels)) * len(rows) + MOST_ASKED
    return Work(
        "relabel",
        f"label by {len(pool)} teachers ({kind})",
        steps=-(-views // run.site.processes.world_size),
        done=sum(protocol.epochs * len(row.candidate.labels) for row in rows) - views,
        seconds_per_step=each + writing / store.num_views,
        fixed_seconds=asked * each,
        memory=held_bytes(run.site.device) + fit.memory,
        disk=round(store.bytes_estimate(1) * views / store.num_views),
        advice=fit.advice,
    )


def timed_labels(
    run: Run, candidate: Candidate, pool: TeacherPool, protocol: Protocol
) -> tuple[Fit, float, Tensor]:
    """Label a batch of views that fits; return it, the seconds of a view, and the logits."""
    recipe, total = view_recipe(protocol, run.data.spec), len(candidate.labels)

    def label(count: int) -> Tensor:
        indices = torch.arange(count)
        views = draw(recipe, seed=0, epoch=0, indices=indices, num_images=total)
        return pool.logits(render(candidate.fetch, indices, views, recipe)).cpu()

    def needs(count: int) -> int:
        with traced(run.site.device) as peak:
            label(count)
        return peak()

    label(1)  # makes what later batches reuse
    fit = fitting_batch(
        needs,
        min(run.settings["teachers"]["batch_size"], total),
        setting="teachers.batch_size",
        room=room_on(run.site.device),
    )
    began = time.perf_counter()
    logits = label(fit.batch)
    return fit, (time.perf_counter() - began) / fit.batch, logits


def missing_epochs(run: Run, row: Row, kind: str, protocol: Protocol) -> int:
    """Return the epochs of views of a row that have no labels yet."""
    folder = run.folder.labels(row.method.key, kind)
    there = [folder / f"epoch_{epoch:05d}.safetensors" for epoch in range(protocol.epochs)]
    return sum(not path.is_file() for path in there)
