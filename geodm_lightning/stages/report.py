"""Join results, figures, cost and configuration in pages and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.merging import merge_results
from geodm_lightning.evaluation.result import EvaluationResult, load_results, save_results
from geodm_lightning.files import write_text
from geodm_lightning.reporting.curvature import to_markdown as geometry_to_markdown
from geodm_lightning.reporting.ledger import build_ledger
from geodm_lightning.reporting.ledger import to_markdown as ledger_to_markdown
from geodm_lightning.reporting.report import Report, StageCost, write_figures, write_report
from geodm_lightning.reporting.tables import build_table, to_markdown, to_terminal
from geodm_lightning.reporting.tracking import read_metrics
from geodm_lightning.stages.run import CONSOLE, Run


def report(run: Run) -> Path:
    """Join results, figures, cost and configuration in one page and print the table.

    Returns:
        The page.
    """
    if run.site.processes.is_main:
        contents = contents_of(run)
        write_figures(run.folder.figures, contents)
        write_report(run.folder.report, contents)
        write_tables(run.folder.path, contents.results)
        CONSOLE.print(to_terminal(build_table(contents.results)))
        CONSOLE.print(f"report: {run.folder.report}", highlight=False, soft_wrap=True)
    run.site.processes.barrier()
    return run.folder.report


def contents_of(run: Run) -> Report:
    """Read everything the page of a run shows."""
    rows = [method for method in run.methods if method.kind != "whole"]
    rows.sort(key=lambda method: not method.is_main)
    sets = {
        method.label: load_set(run.folder.distilled(method.key, is_main=method.is_main))
        for method in rows
    }
    results = load_results(run.folder.results)
    metrics, labels = read_metrics(run.folder.metrics), {row.key: row.label for row in rows}
    by_key = metrics.get("distill", {})
    metrics["distill"] = {labels.get(key, key): curves for key, curves in by_key.items()}
    costs = [cost for distilled in sets.values() for cost in distillation_cost(distilled)]
    costs += [student_cost(result) for result in results]
    return Report(
        title=f"{run.settings['name']} · seed {run.seed}",
        class_names=run.data.spec.class_names,
        results=results,
        sets=sets,
        metrics=metrics,
        costs=costs,
        configuration=run.folder.config.read_text(encoding="utf-8"),
        environment=json.loads(run.folder.environment.read_text(encoding="utf-8")),
    )


def distillation_cost(distilled: DistilledSet) -> list[StageCost]:
    """Return the cost of making a set; none where real images were chosen."""
    manifest = distilled.manifest
    if "cost" not in manifest:
        return []
    return [
        StageCost(
            f"distil {manifest['label']}",
            seconds=manifest["cost"]["seconds"],
            steps=manifest["iterations"],
            peak_memory=manifest["cost"]["peak_memory_bytes"],
        )
    ]


def student_cost(result: EvaluationResult) -> StageCost:
    """Return the cost of all students of a row."""
    peaks = [s.peak_memory for s in result.students if s.peak_memory is not None]
    return StageCost(
        f"students on {result.full_label}",
        seconds=sum(student.seconds for student in result.students),
        steps=sum(student.num_steps for student in result.students),
        peak_memory=max(peaks, default=None),
    )


def report_seeds(runs: list[Run]) -> None:
    """Write and print the table over all seeds of a run, beside their folders."""
    by_seed = [load_results(run.folder.results) for run in runs]
    results = [merge_results(same_method) for same_method in zip(*by_seed, strict=True)]
    folder = runs[0].folder.path.parent
    save_results(folder / "results.json", results)
    write_tables(folder, results)
    CONSOLE.print(to_terminal(build_table(results)))


def write_tables(folder: Path, results: Sequence[EvaluationResult]) -> None:
    """Write ``table.md`` and, where a set was learned, ``cost.md`` and ``geometry.md``."""
    write_text(folder / "table.md", to_markdown(build_table(results)))
    ledger = build_ledger(results)
    if ledger is not None:
        write_text(folder / "cost.md", ledger_to_markdown(ledger))
    if any(result.geometries for result in results):
        write_text(folder / "geometry.md", geometry_to_markdown(results))
