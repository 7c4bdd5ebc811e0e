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
from geodm_lightning.stages.cohorts import Trial
from geodm_lightning.stages.imported import OWN
from geodm_lightning.stages.lessons import Lesson, own_labels
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.sets import as_distilled_set, gathered
from geodm_lightning.stages.trials import without_augmentation


class Taught(NamedTuple):
    """What students learn from beside the images.

    Attributes:
        supervision: Weights of their loss.
        labeller: Gives the soft labels, None for plain classes.
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

    Raises:
        InputError: If the first soft supervision asks for labels that the set came without.
    """
    candidate = candidate_of(run, row)
    soft = soft_labels(run, row, candidate, protocol)
    return taught_cells(run, row, candidate, soft, rest=rest, protocol=protocol)


def taught_cells(
    run: Run,
    row: Method,
    candidate: Candidate,
    soft: Taught | None,
    *,
    rest: ImageTable,
    protocol: Protocol,
) -> list[Trial]:
    """Return the cells of images that soft labels are known of.

    Teachers label the set and random images, with augmentation and without. Labels that came
    with a set are of its own images, or of given views of them, so they make one cell: of
    random images, and without augmentation, students learn the classes.

    Args:
        run: The run.
        row: Row of the set.
        candidate: Its images.
        soft: What students learn beside the classes, None where there is nothing.
        rest: Training images that are not held out.
        protocol: How students are trained.
    """
    random = random_candidate(run, row, rest, ipc=int(candidate.ipc or 1))
    own, reference = run.folder.students(f"scores/{row.key}"), run.folder.students("scores/random")
    is_own = soft is not None and soft.supervision.teachers == OWN
    shared = Taught() if soft is None or is_own else soft
    cells = []
    for augmented in (True, False):
        seen = protocol if augmented else without_augmentation(protocol)
        cells.append(Trial("set", candidate, candidate, seen, own, augmented, *shared))
        cells.append(Trial("random", random, random, seen, reference, augmented, *shared))
    if soft is not None:
        other = soft if is_own else Taught()
        cells.append(Trial("set", candidate, candidate, protocol, own, True, *other))
    return [*cells, whole_cell(run, rest, protocol)]


def soft_labels(run: Run, row: Method, candidate: Candidate, protocol: Protocol) -> Taught | None:
    """Return the run's first soft supervision; its teachers are asked at every step.

    Raises:
        InputError: If it asks for labels that the set came without.
    """
    spec = run.data.spec
    for supervision in assembly.build_supervisions(run.settings):
        if supervision.teachers == OWN:
            architecture = assembly.build_architectures(run.settings, spec)[0]
            lesson = Lesson(row, candidate, supervision, architecture)
            return Taught(supervision, own_labels(run, lesson, protocol))
        if supervision.teachers is not None:
            pool = assembly.build_pools(run.settings, run.data, run.site)[supervision.teachers]
            return Taught(supervision, OnlineLabels(pool, num_classes=spec.num_classes))
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
