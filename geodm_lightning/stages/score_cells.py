"""Which students a set's robust scores are made of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from geodm_lightning import assembly
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.selection import random_selection
from geodm_lightning.evaluation.candidate import (
    Candidate,
    candidate_from_set,
    candidate_from_table,
)
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.files import name_of
from geodm_lightning.labels.labeller import Labeller, OnlineLabels
from geodm_lightning.methods import Method
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.candidates import candidate_of
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.sets import as_distilled_set, gathered
from geodm_lightning.stages.trials import Trial, without_augmentation


class Lesson(NamedTuple):
    """What students learn from beside the images.

    Attributes:
        supervision: Weights of their loss.
        labeller: Gives the teachers' answers, None for plain classes.
    """

    supervision: Supervision = HARD
    labeller: Labeller | None = None


def cells_of(run: Run, row: Method, *, rest: ImageTable, protocol: Protocol) -> list[Trial]:
    """Return the cells that both scores of a set need.

    Args:
        run: The run.
        row: Row of the set.
        rest: Training images that are not held out.
        protocol: How students are trained.
    """
    candidate = candidate_of(run, row)
    random = random_candidate(run, row, rest, ipc=int(candidate.ipc or 1))
    own, reference = run.folder.students(f"scores/{row.key}"), run.folder.students("scores/random")
    taught = soft_lesson(run)
    lesson = taught or Lesson()
    cells = []
    for augmented in (True, False):
        seen = protocol if augmented else without_augmentation(protocol)
        cells.append(Trial("set", candidate, candidate, seen, own, augmented, *lesson))
        cells.append(Trial("random", random, random, seen, reference, augmented, *lesson))
    if taught is not None:
        cells.append(Trial("set", candidate, candidate, protocol, own))
    return [*cells, whole_cell(run, rest, protocol)]


def soft_lesson(run: Run) -> Lesson | None:
    """Return the first supervision by teachers, who are asked at every step; None without."""
    for supervision in assembly.build_supervisions(run.settings):
        if supervision.teachers is not None:
            pool = assembly.build_pools(run.settings, run.data, run.site)[supervision.teachers]
            labeller = OnlineLabels(pool, num_classes=run.data.spec.num_classes)
            return Lesson(supervision, labeller)
    return None


def random_candidate(run: Run, row: Method, rest: ImageTable, *, ipc: int) -> Candidate:
    """Return as many random real images as a set stores, none of them held out."""
    generator = keyed_generator(run.seed, "random selection", "scores")
    indices = random_selection(rest, ipc=ipc, generator=generator)
    method = Method("random", "Random real images", "selection", row.settings)
    distilled = as_distilled_set(run, method, gathered(rest, indices), factor=1)
    return candidate_from_set(distilled, spec=run.data.spec, device=run.site.device)


def whole_cell(run: Run, rest: ImageTable, protocol: Protocol) -> Trial:
    """Return the cell of all real images, whose records all runs share."""
    whole = {"method": "whole", "label": "Whole training set"}
    data = {
        "spec": run.data.spec._asdict(),
        "tested_on": run.data.tested_on,
        "train": run.data.train.class_counts.tolist(),
        "test": run.data.test.class_counts.tolist(),
    }
    folder = Path(run.settings["cache_dir"]) / "whole" / f"{run.data.spec.name}-{name_of(data)}"
    return Trial(
        "whole",
        candidate_from_table(run.data.train, **whole),
        candidate_from_table(rest, **whole),
        protocol,
        folder,
    )
