"""Sets of a run: those chosen among real images, and how every set is kept."""

from __future__ import annotations

from typing import Any

import torch

from geodm_lightning import assembly
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import load_set, save_set
from geodm_lightning.distillers.selection import herding_selection, random_selection
from geodm_lightning.distillers.synthetic import initial_images
from geodm_lightning.methods import VARIABLE, Method
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.run_folder import differences
from geodm_lightning.stages.imported import check_unchanged
from geodm_lightning.stages.run import Run
from geodm_lightning.types import InputError

MOSAIC_FACTOR = 2  # tiles per side, as in every published multi-formation
GATHERED_AT_ONCE = 512  # images; decides memory only


def check_made_alike(run: Run, method: Method) -> None:
    """Check that a set that is there already is whole and was made with these settings.

    Raises:
        InputError: If it is damaged, its row had other settings, or it was made elsewhere and is
            another one there now.
    """
    folder = run.folder.distilled(method.key, is_main=method.is_main)
    if method.kind == "imported":
        check_unchanged(run, method)
        return
    made = load_set(folder).manifest["config"]
    if method.kind == "selection":
        return
    for part in VARIABLE:
        # Sets of earlier versions know of no part that came later.
        differing = differences(made.get(part, method.settings[part]), method.settings[part], part)
        if differing:
            raise InputError(
                f"the set in {folder} was made with other settings: {'; '.join(differing)}; "
                "choose another name=NAME, or delete it to make it again"
            )


def save(run: Run, method: Method, distilled: DistilledSet) -> None:
    """Write a set, once."""
    if run.site.processes.is_main:
        save_set(run.folder.distilled(method.key, is_main=method.is_main), distilled)


def choose(run: Run, method: Method) -> DistilledSet:
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
    return as_distilled_set(run, method, gathered(table, indices), factor=1)


def gathered(table: ImageTable, indices: torch.Tensor) -> torch.Tensor:
    """Return images ``(C, ipc, ch, h, w)``: uint8 where they have no more than 8 bits.

    Args:
        table: Real images.
        indices: ``(C, ipc)`` which of them.
    """
    parts = []
    for some in indices.flatten().split(GATHERED_AT_ONCE):
        unit = table.gather(some).cpu()
        eight_bits = (unit * 255).round().to(torch.uint8)
        if not torch.equal(eight_bits.float() / 255, unit):
            return table.gather(indices).cpu()
        parts.append(eight_bits)
    images = torch.cat(parts)
    return images.reshape(*indices.shape, *images.shape[1:])


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
        "provenance": provenance(*run.site[:2]),
    }
    labels = class_major_labels(num_classes, ipc)
    images = images if images.dtype == torch.uint8 else images.float()
    return DistilledSet(images.flatten(0, 1).cpu(), labels, manifest)
