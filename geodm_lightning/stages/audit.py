"""What the sets of a run are like beside their accuracy: coverage, diversity, copies."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.audit.options import AuditOptions
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.files import identity_in, name_of, write_atomically, write_json
from geodm_lightning.methods import Method
from geodm_lightning.networks.network import Network
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.progress import counted
from geodm_lightning.stages.audit_clouds import Clouds, Neighbours
from geodm_lightning.stages.audit_images import (
    decoded_set,
    feature_network,
    real_classes,
    seen_set,
    training_settings,
    usual_images,
)
from geodm_lightning.stages.run import CONSOLE, Run

AUDIT = "audit.json"
NEIGHBOURS = "neighbours.safetensors"


def audit(run: Run) -> Path:
    """Look at every set of the run beside the real training images, unless that was done.

    Test images take no part.

    Returns:
        The file of what was found.

    Raises:
        InputError: If an option cannot be used, or a set is missing or damaged.
    """
    options = AuditOptions.from_settings(run.settings)
    rows = [row for row in run.methods if row.kind != "whole"]
    rows.sort(key=lambda row: not row.is_main)
    path, identity = run.folder.path / AUDIT, identity_of(run, rows, options)
    if is_complete(path, identity):
        return path
    network = feature_network(run, options)
    if run.site.processes.is_main:
        found, pictures = look(run, rows, network, options)
        write_pictures(run.folder.path / NEIGHBOURS, pictures)
        write_json(path, {"identity": identity, **about(run, options), **found})
        tell(found["rows"])
    run.site.processes.barrier()
    return path


def look(
    run: Run, rows: list[Method], network: Network, options: AuditOptions
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Compare the sets with the real images.

    Returns:
        What was found, as JSON values, and by row the pictures ``(n, 1 + shown, ch, h, w)`` of
        images with their nearest real ones, of 8 bits.
    """
    sets = [decoded_set(run, row) for row in rows]
    seen = [seen_set(run, distilled, network) for distilled in sets]
    usual, usual_indices = usual_images(run, network)
    clouds = Clouds(seen, options=options, seed=run.seed)
    neighbours = Neighbours(seen, usual=usual, usual_indices=usual_indices, options=options)
    num_classes = run.data.spec.num_classes
    with counted("audit, class by class", total=num_classes, console=CONSOLE) as advance:
        for real in real_classes(run, network, options):
            clouds.update(real)
            neighbours.update(real)
            advance(1)
    labels, values, pictures = run.data.train.labels, [], {}
    for index, (row, distilled) in enumerate(zip(rows, sets, strict=True)):
        shown = neighbours.shown(index)
        pictures[row.key] = pictures_of(run, distilled, shown)
        values.append(
            {
                "method": row.key,
                "label": row.label,
                "digest": load_set(set_folder(run, row)).digest(),
                "num_images": len(distilled.labels),
                "per_class": -(-len(distilled.labels) // num_classes),
                "clouds": clouds.of_row(index),
                "nearest": neighbours.of_row(index, labels),
                "shown": shown,
            }
        )
    return {"references": clouds.references(), "rows": values}, pictures


def about(run: Run, options: AuditOptions) -> dict[str, Any]:
    """Return what a reader must know of the comparison, as JSON values."""
    spec, counts = run.data.spec, run.data.train.class_counts
    most = options.real_per_class or int(counts.max())
    settings = training_settings(run.settings, options)
    training = assembly.pretrain_settings(settings, for_herding=True)
    trained = options.features == "trained"
    return {
        "dataset": spec.name,
        "classes": list(spec.class_names),
        "seed": run.seed,
        "options": dataclasses.asdict(options),
        "network": run.settings["network"],
        "steps": training.num_steps(len(run.data.train)) if trained else 0,
        "num_real": int(counts.clamp(max=most).sum()),
        "real_per_class": int(counts.clamp(max=most).min()),
        "provenance": provenance(*run.site[:2]),
    }


def identity_of(run: Run, rows: list[Method], options: AuditOptions) -> str:
    """Return what decides the audit, in 12 hexadecimal digits."""
    settings = training_settings(run.settings, options)
    return name_of(
        {
            "options": dataclasses.asdict(options),
            "seed": run.seed,
            "network": run.settings["network"],
            "training": assembly.pretrain_settings(settings, for_herding=True)._asdict(),
            "train": run.data.train.class_counts.tolist(),
            "sets": [[row.key, load_set(set_folder(run, row)).digest()] for row in rows],
        }
    )


def set_folder(run: Run, row: Method) -> Path:
    """Return where the set of a row lies."""
    return run.folder.distilled(row.key, is_main=row.is_main)


def is_complete(path: Path, identity: str) -> bool:
    """Whether a file of an audit is of these very sets, its pictures beside it.

    Raises:
        InputError: If the file is damaged.
    """
    return identity_in(path, again="audit") == identity and (path.parent / NEIGHBOURS).is_file()


def pictures_of(run: Run, distilled: DistilledSet, shown: list[dict[str, Any]]) -> Tensor:
    """Return images with their nearest real ones, ``(n, 1 + shown, ch, h, w)`` of 8 bits."""
    rows = []
    for one in shown:
        own = distilled.unit_images(torch.tensor([one["image"]])).clamp(0, 1)
        indices = torch.tensor([index for index in one["nearest"] if index >= 0])
        rows.append(torch.cat([own, run.data.train.gather(indices).cpu()]))
    return (torch.stack(rows) * 255).round().to(torch.uint8)


def write_pictures(path: Path, pictures: dict[str, Tensor]) -> None:
    """Write the pictures of every row, whole or not at all."""
    write_atomically(path, lambda temporary: save_file(pictures, temporary))


def tell(rows: list[dict[str, Any]]) -> None:
    """Print what a user must not miss: copies of real images."""
    for row in rows:
        nearest = row["nearest"]
        if nearest["copies"]:
            line = (
                f"audit of {row['label']}: {nearest['copies']} of {nearest['checked']} images are "
                "copies of real ones"
            )
            CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
