"""What it costs to draw the page of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Work
from geodm_lightning.probes.students import Row, learns, rows_of
from geodm_lightning.reporting.report import Report, write_figures, write_report
from geodm_lightning.reporting.tracking import Curve
from geodm_lightning.stages.report import write_tables
from geodm_lightning.stages.run import Run

POINTS = 200  # of every curve


def probe_report(run: Run) -> Iterator[Work]:
    """Draw a page of the right size, of students that were never trained, and throw it away."""
    rows = rows_of(run)
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        contents = stand_in_report(run, rows)
        write_figures(Path(folder) / "figures", contents)
        write_report(Path(folder) / "report.html", contents)
        write_tables(Path(folder), contents.results)
        spent = time.perf_counter() - began
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        written = sum(path.stat().st_size for path in files)
    disk = 0 if run.folder.report.is_file() else written
    yield Work("report", "draw the page", steps=0, fixed_seconds=spent, disk=disk)


def stand_in_report(run: Run, rows: list[Row]) -> Report:
    """Return what a page of a run would show, but for its values."""
    sets = {row.method.label: stand_in_set(row) for row in rows if row.method.kind != "whole"}
    learned = [row.method for row in rows if row.method.kind == "matching"]
    return Report(
        title=run.settings["name"],
        class_names=run.data.spec.class_names,
        results=[result for row in rows for result in stand_in_results(run, row)],
        sets=sets,
        metrics={"distill": {method.label: stand_in_curves(method) for method in learned}},
    )


def stand_in_curves(method: Method) -> dict[str, Curve]:
    """Return what a row logs: its loss, curvature and weight of every factor of its geometry."""
    factors = method.settings["geometry"].get("factors", ())
    keys = [f"{kind}/{factor}" for kind in ("curvature", "weight") for factor in factors]
    curve = Curve(list(range(POINTS)), [1.0] * POINTS)
    return dict.fromkeys(["distill/loss", *keys], curve)


def stand_in_set(row: Row) -> DistilledSet:
    """Return the images that stand in for those of a row, of which pages show few."""
    labels = row.candidate.labels.cpu()
    images = row.candidate.fetch(torch.arange(len(labels), device=row.candidate.labels.device))
    manifest = {"method": row.method.key, "label": row.method.label, "factor": 1}
    return DistilledSet(images.cpu().sigmoid(), labels, manifest)


def stand_in_results(run: Run, row: Row) -> list[EvaluationResult]:
    """Return a result of every cell of a row, of students that reached nothing."""
    spec = run.data.spec
    results = []
    for supervision in assembly.build_supervisions(run.settings):
        for architecture in assembly.build_architectures(run.settings, spec):
            if learns(row, supervision):
                protocol = architecture.protocol
                students = tuple(
                    StudentResult(run.seed, index, row.candidate.digest, 0.0, 0.0, 0.0, 0, 0.0, 0)
                    for index in range(protocol.num_students)
                )
                results.append(
                    EvaluationResult(
                        row.method.key,
                        row.method.label,
                        spec.name,
                        row.candidate.ipc,
                        len(row.candidate.labels),
                        protocol,
                        students,
                        supervision=supervision,
                        architecture=architecture.name,
                        architecture_label=architecture.label,
                    )
                )
    return results
