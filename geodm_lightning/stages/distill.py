"""Make the distilled sets of a run: the method's own and those of the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import is_complete, load_set, save_set
from geodm_lightning.distillers.loop import resume, run_distillation
from geodm_lightning.distillers.selection import herding_selection, random_selection
from geodm_lightning.distillers.state import capture
from geodm_lightning.methods import Method
from geodm_lightning.provenance import peak_memory, provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import TrainingProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.run import CONSOLE, Run


def distill(run: Run) -> Path:
    """Make the method's distilled set and those of the baselines.

    Returns:
        Folder of the method's own set.
    """
    made = run.folder.path
    for method in run.methods:
        if method.kind == "whole":
            continue
        folder = run.folder.distilled(method.key, is_main=method.is_main)
        made = folder if method.is_main else made
        if is_complete(folder):
            load_set(folder)  # a damaged set is named before anything is built on it
            continue
        make = distill_by_matching if method.kind == "matching" else select_real
        distilled = make(run, method)
        if run.site.processes.is_main:
            save_set(folder, distilled)
        run.site.processes.barrier()
    return made


def distill_by_matching(run: Run, method: Method) -> DistilledSet:
    """Learn the images of ``method``, resuming from its checkpoint."""
    distiller = assembly.build_distiller(
        run.settings, run.data, run.site, euclidean=method.euclidean
    )
    options, total = run.settings["distiller"], assembly.num_iterations(run.settings)
    checkpoint = run.folder.checkpoint(method.key, is_main=method.is_main)
    first = resume(distiller, checkpoint)
    loggers: list[Logger] = []
    if run.site.processes.is_main:
        tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
        tracker.truncate(step=first + 1)
        loggers = [tracker, *(run.loggers if method.is_main else ())]
    run_distillation(
        distiller,
        num_iterations=total,
        checkpoint=checkpoint,
        checkpoint_every=options["checkpoint_every"],
        site=run.site,
        loggers=loggers,
        callbacks=[
            TrainingProgress(
                f"distil {method.label}", num_steps=total, first_step=first, console=CONSOLE
            )
        ],
    )
    state, published = capture(distiller), options["published_iterations"]
    return as_distilled_set(
        run,
        method,
        distiller.synthetic.unit_images(state["pixels"]),
        factor=distiller.synthetic.factor,
        iterations=total,
        schedule_share=None if published is None else total / published,
        geometry=distiller.matching.geometry.state(),
        cost={
            "seconds": state["seconds"],
            "seconds_per_iteration": state["seconds"] / total,
            "peak_memory_bytes": peak_memory(run.site.device),
            "processes": run.site.processes.world_size,
        },
    )


def select_real(run: Run, method: Method) -> DistilledSet:
    """Choose the real images of a baseline."""
    table, ipc = run.data.train, run.settings["ipc"]
    if method.key == "random":
        generator = keyed_generator(run.seed, "random selection")
        indices = random_selection(table, ipc=ipc, generator=generator)
    else:
        network = assembly.herding_network(run.settings, run.data, run.site)
        indices = herding_selection(table, network, ipc=ipc)
    return as_distilled_set(run, method, table.gather(indices), factor=1)


def as_distilled_set(
    run: Run, method: Method, images: torch.Tensor, *, factor: int, **extra: Any
) -> DistilledSet:
    """Join unit-range images ``(C, ipc, ch, h, w)`` with what must be known about them."""
    num_classes, ipc = images.shape[:2]
    manifest = {
        "method": method.key,
        "label": method.label,
        "ipc": ipc,
        "factor": factor,
        "dataset": run.data.spec._asdict(),
        "seed": run.seed,
        "schedule": run.settings["schedule"]["name"],
        **extra,
        "config": run.settings,
        "provenance": provenance(run.site.device),
    }
    labels = class_major_labels(num_classes, ipc)
    return DistilledSet(images.flatten(0, 1).float().cpu(), labels, manifest)
