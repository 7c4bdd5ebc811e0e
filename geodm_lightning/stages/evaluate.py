"""Train fresh students on every set of a run and on all real images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning import Callback
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.candidate import (
    Candidate,
    candidate_from_set,
    candidate_from_table,
)
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.result import load_results, save_results
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.methods import Method
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.progress import StudentProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.run import CONSOLE, Run


def evaluate(run: Run) -> Path:
    """Train fresh students on every set and on all real images, under one protocol.

    Returns:
        The file of all results.
    """
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    candidates = [candidate_of(run, method) for method in run.methods]
    if is_complete(run.folder.results, candidates, protocol):
        return run.folder.results
    results = []
    for method, candidate in zip(run.methods, candidates, strict=True):
        results.append(
            evaluate_students(
                candidate,
                test=run.data.test,
                protocol=protocol,
                seed=run.seed,
                folder=run.folder.students(method.key),
                site=run.site,
                callbacks=student_callbacks(run, method, protocol.num_students),
                loggers=partial(student_loggers, run, method),
                provenance=provenance(run.site.device),
            )
        )
    run.site.processes.barrier()
    if run.site.processes.is_main:
        save_results(run.folder.results, results)
        for logger in run.loggers:
            logger.log_metrics({f"accuracy/{result.method}": result.mean for result in results})
    run.site.processes.barrier()
    return run.folder.results


def is_complete(path: Path, candidates: list[Candidate], protocol: Protocol) -> bool:
    """Whether a file of results tells of these very images under this very protocol.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return False
    found = [
        (r.method, r.protocol.digest(), len(r.students), r.students[0].set_digest)
        for r in load_results(path)
    ]
    return found == [
        (c.method, protocol.digest(), protocol.num_students, c.digest) for c in candidates
    ]


def candidate_of(run: Run, method: Method) -> Candidate:
    """Return what the students of one row are trained on."""
    if method.kind == "whole":
        return candidate_from_table(run.data.train, method=method.key, label=method.label)
    distilled = load_set(run.folder.distilled(method.key, is_main=method.is_main))
    return candidate_from_set(distilled, spec=run.data.spec, device=run.site.device)


def student_callbacks(run: Run, method: Method, num_students: int) -> list[Callback]:
    """Return the progress bar of the students; only the main process shows its own."""
    if not run.site.processes.is_main:
        return []
    return [StudentProgress(method.label, num_students=num_students, console=CONSOLE)]


def student_loggers(run: Run, method: Method, index: int) -> list[Logger]:
    """Return the logger of one student; a file of its own per process, as several write."""
    rank = run.site.processes.rank
    path = run.folder.metrics if rank == 0 else run.folder.path / f"metrics_{rank}.csv"
    tracker = CsvTracker(path, stage="student", series=f"{method.key}/{index}")
    tracker.truncate(step=0)
    return [tracker]
