"""Let teachers label the views of every set that students with soft labels will see."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.data.batches import Fetch, fetch_from_table
from geodm_lightning.data.views import ViewRecipe
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.views import centre_cropped, view_recipe
from geodm_lightning.files import write_json
from geodm_lightning.labels.agreement import Agreement, What, can_tell, measure_agreement
from geodm_lightning.labels.labeller import relabel as label_views
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.methods import Method
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import counted
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.types import InputError

ASKED_PER_CLASS = 20  # images per class on which teachers and labels are compared
MOST_ASKED = 2000  # images in all


def relabel(run: Run) -> Path | None:
    """Check the teachers, then write what they say of every view that lacks labels.

    The teachers are asked about real images first, then about those of each set. Nothing is
    written for teachers that are asked online, and nothing happens where all labels are hard.

    Returns:
        Folder of the labels, None where no teacher is asked.

    Raises:
        InputError: If a teacher knows other classes, or a store is damaged or of other labels.
    """
    pools = assembly.build_pools(run.settings, run.data, run.site)
    if not pools:
        return None
    pool = max(pools.values(), key=len)
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    recipe = view_recipe(protocol, run.data.spec)
    sets = [(row, candidate_of(run, row)) for row in run.methods if row.kind != "whole"]
    agreements = {"real images": as_values(ask_about_real(run, pool, recipe))}
    for method, candidate in sets:
        agreement = ask_about_set(run, method, candidate, pool, recipe)
        if agreement is not None:
            agreements[method.label] = as_values(agreement)
    if run.site.processes.is_main:
        write_json(run.folder.agreement, agreements)
    if run.settings["teachers"]["labels"] == "store":
        for kind, asked in pools.items():
            for method, candidate in sets:
                fill_store(run, method, candidate, asked, kind, protocol)
    run.site.processes.barrier()
    return run.folder.agreement.parent


def ask_about_real(run: Run, pool: TeacherPool, recipe: ViewRecipe) -> Agreement:
    """Compare the teachers with the labels of real images."""
    table, spec = run.data.train, run.data.spec
    per_class = max(2, min(ASKED_PER_CLASS, MOST_ASKED // spec.num_classes))
    chosen = table.draw(per_class, generator=keyed_generator(0, "agreement")).flatten()
    labels = table.labels[chosen.to(table.device)]
    return compare(run, pool, recipe, fetch_from_table(table), chosen, labels, what="real")


def ask_about_set(
    run: Run, method: Method, candidate: Candidate, pool: TeacherPool, recipe: ViewRecipe
) -> Agreement | None:
    """Compare the teachers with the labels of a set; None if it is too small to tell."""
    if not can_tell(candidate.labels, num_classes=run.data.spec.num_classes):
        return None
    every = -(-len(candidate.labels) // MOST_ASKED)
    chosen = torch.arange(0, len(candidate.labels), every, device=candidate.labels.device)
    what: What = "real" if method.kind == "selection" else "generated"
    return compare(run, pool, recipe, candidate.fetch, chosen, candidate.labels[chosen], what=what)


def compare(
    run: Run,
    pool: TeacherPool,
    recipe: ViewRecipe,
    fetch: Fetch,
    chosen: Tensor,
    labels: Tensor,
    *,
    what: What,
) -> Agreement:
    """Ask the teachers about images cropped at the centre to the views' size.

    Raises:
        InputError: If a teacher disagrees, unless ``teachers.strict`` is false or the run is a
            dry one: then the problem is printed.
    """
    spec = run.data.spec
    cropped = centre_cropped(fetch, side=spec.resolution, resolution=recipe.resolution)
    images = cropped(chosen).to(run.site.device)
    agreement = measure_agreement(pool, images, labels, what=what, num_classes=spec.num_classes)
    if agreement.problems:
        if run.settings["teachers"]["strict"] and not run.settings["dry_run"]:
            way_out = "teachers.strict=false labels all the same"
            raise InputError(f"{agreement.problems[0]}; {way_out}")
        if run.site.processes.is_main:
            for problem in agreement.problems:
                CONSOLE.print(f"warning: {problem}", markup=False, highlight=False, soft_wrap=True)
    return agreement


def fill_store(
    run: Run,
    method: Method,
    candidate: Candidate,
    pool: TeacherPool,
    kind: str,
    protocol: Protocol,
) -> LabelStore:
    """Write the labels of the views of a set that are not there yet."""
    store = assembly.open_store(
        run.settings,
        candidate,
        pool,
        protocol,
        spec=run.data.spec,
        seed=run.seed,
        folder=run.folder.labels(method.key, kind),
    )
    processes = run.site.processes
    missing = store.missing_epochs()
    total = len(missing[processes.rank :: processes.world_size])
    megabytes = store.bytes_estimate(len(missing)) / 1e6
    title = f"label {method.label} by {len(pool)} teachers ({kind}, {megabytes:.1f} MB)"
    with counted(title, total=total if processes.is_main else 0, console=CONSOLE) as advance:
        label_views(
            store,
            pool,
            view_recipe(protocol, run.data.spec),
            fetch=candidate.fetch,
            seed=run.seed,
            batch_size=run.settings["teachers"]["batch_size"],
            processes=processes,
            report=lambda done, of: advance(1),
        )
    return store


def as_values(agreement: Agreement) -> dict[str, object]:
    """Return what is kept of a comparison, as JSON values."""
    return {
        "images": agreement.what,
        "num_images": agreement.num_images,
        "teachers": [verdict.name for verdict in agreement.teachers],
        "accuracies": [verdict.accuracy for verdict in agreement.teachers],
        "accuracy of the mean": agreement.mean.accuracy,
        "problems": list(agreement.problems),
    }
