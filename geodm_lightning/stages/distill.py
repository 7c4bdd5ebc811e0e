"""Make the distilled sets of a run: the method's own and those of the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import is_complete, load_set, save_set
from geodm_lightning.distillers.loop import Member, run_distillations
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.selection import herding_selection, random_selection
from geodm_lightning.distillers.state import capture
from geodm_lightning.distillers.synthetic import initial_images
from geodm_lightning.methods import VARIABLE, Method
from geodm_lightning.provenance import peak_memory, provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import TrainingProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.run_folder import differences
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.types import InputError

LONGEST_TITLE = 40
MOSAIC_FACTOR = 2  # tiles per side, as in every published multi-formation


def distill(run: Run) -> Path:
    """Make the method's distilled set and those of the rows beside it.

    Rows that look at the same real images through the same networks are made in lockstep.

    Returns:
        Folder of the method's own set.
    """
    groups: dict[str, list[Method]] = {}
    for method in run.methods:
        if method.kind == "whole":
            continue
        if is_complete(run.folder.distilled(method.key, is_main=method.is_main)):
            check_made_alike(run, method)
        elif method.kind == "matching":
            groups.setdefault(assembly.sharing_key(method.settings), []).append(method)
        else:
            save(run, method, select_real(run, method))
    for methods in groups.values():
        distill_together(run, methods)
    run.site.processes.barrier()
    main = next(method for method in run.methods if method.is_main)
    return run.folder.distilled(main.key, is_main=True)


def check_made_alike(run: Run, method: Method) -> None:
    """Check that a set that is there already is whole and was made with these settings.

    Raises:
        InputError: If it is damaged or its row had other settings.
    """
    folder = run.folder.distilled(method.key, is_main=method.is_main)
    made = load_set(folder).manifest["config"]
    if method.kind != "matching":
        return
    for part in VARIABLE:
        differing = differences(made[part], method.settings[part], part)
        if differing:
            raise InputError(
                f"the set in {folder} was made with other settings: {'; '.join(differing)}; "
                "choose another name=NAME, or delete it to make it again"
            )


def save(run: Run, method: Method, distilled: DistilledSet) -> None:
    """Write a set, once."""
    if run.site.processes.is_main:
        save_set(run.folder.distilled(method.key, is_main=method.is_main), distilled)


def distill_together(run: Run, methods: list[Method]) -> None:
    """Learn the images of rows that share real features, resuming from their checkpoints."""
    real = assembly.build_real_features(methods[0].settings, run.data, run.site)
    members = [member_of(run, method, real) for method in methods]
    first = min(member.distiller.iteration for member in members)
    total = assembly.num_iterations(methods[0].settings)
    names = ", ".join(method.label for method in methods)
    title = names if len(names) <= LONGEST_TITLE else f"{len(methods)} rows of the table"
    run_distillations(
        members,
        num_iterations=total,
        checkpoint_every=methods[0].settings["distiller"]["checkpoint_every"],
        site=run.site,
        callbacks=[
            TrainingProgress(f"distil {title}", num_steps=total, first_step=first, console=CONSOLE)
        ],
    )
    for method, member in zip(methods, members, strict=True):
        save(run, method, outcome(run, method, member.distiller))


def member_of(run: Run, method: Method, real: RealFeatures) -> Member:
    """Build the distillation of a row where its last checkpoint left it."""
    distiller = assembly.build_distiller(method.settings, run.data, run.site, real)
    member = Member(distiller, run.folder.checkpoint(method.key, is_main=method.is_main))
    first = member.resume()
    if run.site.processes.is_main:
        tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
        tracker.truncate(step=first + 1)
        distiller.trackers = [tracker, *(run.loggers if method.is_main else ())]
    return member


def outcome(run: Run, method: Method, distiller: MatchingDistiller) -> DistilledSet:
    """Return the images a finished distillation learned, with what they cost."""
    state = capture(distiller)
    total, published = distiller.iteration, method.settings["distiller"]["published_iterations"]
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
            "component_seconds_per_iteration": distiller.ledger.per_iteration(),
            "component_peak_bytes": distiller.ledger.balance().bytes,
            "stretches": distiller.ledger.stretches() if distiller.ledger.marks else [],
            "processes": run.site.processes.world_size,
        },
    )


def select_real(run: Run, method: Method) -> DistilledSet:
    """Choose the real images of a baseline."""
    table, ipc = run.data.train, run.settings["ipc"]
    if method.key == "mosaic":
        return random_mosaics(run, method)
    if method.key == "random":
        generator = keyed_generator(run.seed, "random selection")
        indices = random_selection(table, ipc=ipc, generator=generator)
    else:
        network = assembly.herding_network(run.settings, run.data, run.site)
        indices = herding_selection(table, network, ipc=ipc)
    return as_distilled_set(run, method, table.gather(indices), factor=1)


def random_mosaics(run: Run, method: Method) -> DistilledSet:
    """Tile four random real images into each stored one: what multi-formation starts from."""
    table = run.data.train
    images = initial_images(
        table,
        ipc=run.settings["ipc"],
        factor=MOSAIC_FACTOR,
        initialisation="mix",
        classes=slice(0, table.spec.num_classes),
        generator=keyed_generator(run.seed, "random selection"),
    )
    return as_distilled_set(run, method, images, factor=MOSAIC_FACTOR)


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
        "config": method.settings,
        "provenance": provenance(run.site.device),
    }
    labels = class_major_labels(num_classes, ipc)
    return DistilledSet(images.flatten(0, 1).float().cpu(), labels, manifest)
