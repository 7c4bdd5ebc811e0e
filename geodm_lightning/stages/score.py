"""Robust scores of sets: what their images give whatever labels and augmentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from geodm_lightning import assembly
from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.audit.robustness import (
    RobustScore,
    augmentation_robust_score,
    label_robust_score,
)
from geodm_lightning.data.datamodule import RealDataModule, held_out
from geodm_lightning.evaluation.supervision import HARD
from geodm_lightning.files import identity_in, name_of, write_json
from geodm_lightning.methods import Method
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.progress import counted
from geodm_lightning.reporting.score import diverged
from geodm_lightning.stages.cohorts import Trial, num_students
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.stages.score_cells import cells_of
from geodm_lightning.stages.trials import Bench, TrialResult, run_trial
from geodm_lightning.types import InputError

MADE = ("matching", "generation", "imported")
SCORES = "scores.json"


def check_held_out(settings: dict[str, Any], data: RealDataModule) -> None:
    """Check that what scores hold out leaves enough images for their random sets.

    Raises:
        InputError: If a class would have none, or fewer than the images per class.
    """
    if "score" not in settings["stages"]:
        return
    share = ScoreOptions.from_settings(settings).validation
    held = held_out(data.train, share=share, key="scores.validation")
    kept = data.train.labels.cpu()[~held].bincount(minlength=data.spec.num_classes)
    if settings["ipc"] > int(kept.min()):
        raise InputError(
            f"scores.validation={share:g} leaves {int(kept.min())} training images of class "
            f"'{data.spec.class_names[int(kept.argmin())]}' for random sets of "
            f"{settings['ipc']} per class; use a smaller share"
        )


def score(run: Run) -> Path:
    """Compute the robust scores of the run's sets, unless that was done.

    Rates are chosen on training images that are held out. Random sets are free of them; a set
    that was distilled may have seen them. Students on all real images are shared by all runs
    that keep trained networks in the same place.

    Returns:
        The file of the scores.

    Raises:
        InputError: If there is no set to be scored, students diverge at every rate or at the one
            that was chosen, or a record is damaged.
    """
    options = ScoreOptions.from_settings(run.settings)
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    table = run.data.train
    held = held_out(table, share=options.validation, key="scores.validation")
    rest = table.select((~held).nonzero().flatten())
    chooser = table.select(held.nonzero().flatten())
    together = run.settings["evaluation"].get("together", 1)
    bench = Bench(chooser, run.data.test, options, run.seed, run.site, together)
    rows = scored_rows(run, options)
    cells = {row.key: cells_of(run, row, rest=rest, protocol=protocol) for row in rows}
    path, identity = run.folder.path / SCORES, identity_of(run, cells, options)
    if is_complete(path, identity):
        return path
    values = [scores_of(row, run_cells(row, cells[row.key], bench), bench) for row in rows]
    if run.site.processes.is_main:
        contents = {
            "identity": identity,
            "dataset": run.data.spec.name,
            "tested_on": run.data.tested_on,
            "seed": run.seed,
            "protocol": protocol.to_dict(),
            "protocol_digest": protocol.digest(),
            "options": dataclasses.asdict(options),
            "held_out": len(bench.held_out),
            "rows": values,
            "provenance": provenance(*run.site[:2]),
        }
        write_json(path, contents)
        tell(values)
    run.site.processes.barrier()
    return path


def scored_rows(run: Run, options: ScoreOptions) -> list[Method]:
    """Return the rows whose sets are scored: the run's own or imported ones, or all."""
    made = [row for row in run.methods if row.kind in MADE]
    if options.rows == "own":
        made = [row for row in made if row.is_main or row.kind == "imported"]
    return made


def identity_of(run: Run, cells: dict[str, list[Trial]], options: ScoreOptions) -> str:
    """Return what decides the scores, in 12 hexadecimal digits."""
    parts: dict[str, Any] = {
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k != "name"},
        "seed": run.seed,
        "tested": [run.data.tested_on, run.data.test.class_counts.tolist()],
    }
    for key, trials in cells.items():
        parts[key] = [(trial.identity(), trial.protocol.num_students) for trial in trials]
    return name_of(parts)


def is_complete(path: Path, identity: str) -> bool:
    """Whether a file of scores is of these very cells.

    Raises:
        InputError: If the file is damaged.
    """
    return identity_in(path, again="score") == identity


def run_cells(row: Method, trials: list[Trial], bench: Bench) -> dict[str, TrialResult]:
    """Train and test the students of a row's cells; return them by name."""
    total = sum(num_students(trial, bench.options) for trial in trials)
    shown = total if bench.site.processes.is_main else 0
    with counted(f"students that score {row.label}", total=shown, console=CONSOLE) as advance:
        return {trial.name: run_trial(trial, bench, advance) for trial in trials}


def scores_of(row: Method, results: dict[str, TrialResult], bench: Bench) -> dict[str, Any]:
    """Return the scores of a row with the cells they are made of, as JSON values.

    Random images have the labels of teachers where the set has; where a set came with labels
    of its own, which random images cannot have, theirs are their classes.
    """

    def reached(images: str, supervision: str, augmentation: str = "augmented") -> list[float]:
        return results[f"{images}/{supervision}/{augmentation}"].accuracies

    names = {name.split("/")[1] for name in results if name.startswith("set/")}
    soft = next(iter(names - {HARD.name}), None)
    taught = soft if soft and f"random/{soft}/augmented" in results else HARD.name
    options = bench.options
    label = label_robust_score(
        whole=reached("whole", HARD.name),
        hard=reached("set", HARD.name),
        soft=None if soft is None else reached("set", soft),
        random=reached("random", taught),
        weight=options.weight,
    )
    augmentation = augmentation_robust_score(
        augmented=reached("set", taught),
        random_augmented=reached("random", taught),
        plain=reached("set", taught, "plain"),
        random_plain=reached("random", taught, "plain"),
        weight=options.augmentation_weight,
    )
    return {
        "method": row.key,
        "label": row.label,
        "supervision": soft or HARD.name,
        "random_supervision": taught,
        "label_robust": as_values(label),
        "augmentation_robust": as_values(augmentation),
        "cells": [result._asdict() for result in results.values()],
    }


def as_values(score: RobustScore) -> dict[str, Any]:
    """Return a score as JSON values."""
    return score._asdict()


def tell(rows: list[dict[str, Any]]) -> None:
    """Print the scores in percent, as DD-Ranking does."""
    for row in rows:
        parts = [
            f"{name} {100 * row[key]['value']:.1f}"
            for name, key in (
                ("label-robust", "label_robust"),
                ("augmentation-robust", "augmentation_robust"),
            )
        ]
        lines = [f"scores of {row['label']}: {', '.join(parts)} (26.9: no gain)"]
        for cell in row["cells"]:
            lines += [f"{cell['name']} diverged at rate {rate}" for rate in diverged(cell)]
        for line in lines:
            CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
