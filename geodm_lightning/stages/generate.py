"""Sample the sets of a run from its diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.assembly.generator import Generator
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distillers.generation import (
    GenerationCost,
    Report,
    decode_images,
    generate_latents,
)
from geodm_lightning.methods import Method
from geodm_lightning.provenance import peak_memory
from geodm_lightning.reporting.progress import counted
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.stages.sets import as_distilled_set


def generate(run: Run, method: Method, generator: Generator) -> DistilledSet:
    """Sample the set of a row, going on where an interrupted run stopped.

    Args:
        run: The run.
        method: A row of kind ``"generation"``.
        generator: The diffusion model all rows share.

    Returns:
        Pictures of 8 bits, on every process.
    """
    guides = assembly.build_guides(method.settings, generator, run.data, run.site)
    table = LatentTable.open(
        run.folder.latents(method.key),
        (run.data.spec.num_classes, run.settings["ipc"]),
        generator.sampler.denoiser.latent_shape,
        torch.float32,
        {**generator.identity, **pushes(method.settings), "seed": run.seed},
    )
    with watched(run, method, table) as report:
        cost = generate_latents(
            generator.sampler,
            table,
            labels=generator.labels,
            seed=run.seed,
            batch_size=run.settings["generator"]["batch_size"],
            guides=guides,
            processes=run.site.processes,
            device=run.site.device,
            report=report,
        )
    run.site.processes.barrier()
    images = decode_images(
        generator.codec,
        table,
        spec=run.data.spec,
        processes=run.site.processes,
        device=run.site.device,
    )
    return as_distilled_set(
        run,
        method,
        images,
        factor=1,
        iterations=images.shape[0] * images.shape[1],
        schedule_share=None,
        generator=generator.identity,
        cost=summed(run, cost),
    )


def pushes(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the guidance of a row: its settings, and a geometry where it has one."""
    guidance = settings["guidance"]
    transport = guidance["transport"]
    if transport is None or transport["ground"] != "product":
        return {"guidance": guidance}
    return {"guidance": guidance, "geometry": settings["geometry"]}


def summed(run: Run, cost: GenerationCost) -> dict[str, float | int | None]:
    """Return what sampling took, over all processes; images of an earlier start do not count."""
    values = torch.tensor([*cost], dtype=torch.float64, device=run.site.device)
    seconds, guidance, images = run.site.processes.sum_(values).tolist()
    return {
        "seconds": seconds,
        "guidance_seconds": guidance,
        "images": int(images),
        "peak_memory_bytes": peak_memory(run.site.device),
        "processes": run.site.processes.world_size,
    }


@contextmanager
def watched(run: Run, method: Method, table: LatentTable) -> Iterator[Report]:
    """Show and log what is told of every batch: progress and the guidance's statistics."""
    if not run.site.processes.is_main:
        yield lambda count, statistics: None
        return
    missing = table.missing()
    total = int(missing[run.site.processes.shard(len(missing))].sum())
    made = missing.numel() - int(missing.sum())  # by an earlier start
    tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
    loggers = (tracker, *(run.loggers if method.is_main else ()))
    with counted(f"sample {method.label}", total=total, console=CONSOLE) as advance:

        def tell(count: int, statistics: dict[str, Tensor]) -> None:
            nonlocal made
            made += count
            advance(count)
            values = {f"distill/{name}": float(value.mean()) for name, value in statistics.items()}
            for logger in loggers if values else ():
                logger.log_metrics(values, step=made)

        yield tell
