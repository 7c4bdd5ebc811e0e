"""The stages of a run: distill, evaluate, report; each resumable, skipped when complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from geodm_lightning import assembly, processes
from geodm_lightning.assembly import Method
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import is_complete, load_set, save_set
from geodm_lightning.distillers.loop import resume, run_distillation
from geodm_lightning.distillers.selection import herding_selection, random_selection
from geodm_lightning.evaluation.candidate import (
    Candidate,
    candidate_from_set,
    candidate_from_table,
)
from geodm_lightning.evaluation.result import (
    EvaluationResult,
    load_results,
    merge_results,
    save_results,
)
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.files import write_text
from geodm_lightning.provenance import peak_memory, provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import StudentProgress, TrainingProgress
from geodm_lightning.reporting.report import Report, StageCost, write_figures, write_report
from geodm_lightning.reporting.tables import build_table, to_markdown, to_terminal
from geodm_lightning.reporting.tracking import CsvTracker, read_metrics, wandb_tracker
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.settings import check_settings, choose_accelerator, shortened
from geodm_lightning.site import Site, keep_freed_memory

CONSOLE = Console()


class Run(NamedTuple):
    """Everything the stages of one seed share.

    Attributes:
        settings: Resolved configuration as plain containers, ``seed`` being this run's.
        folder: Where the run reads and writes.
        data: Real images.
        site: Device and process of this run.
        loggers: Loggers beside ``metrics.csv``.
    """

    settings: dict[str, Any]
    folder: RunFolder
    data: RealDataModule
    site: Site
    loggers: tuple[Logger, ...] = ()

    @property
    def seed(self) -> int:
        """Seed of this run."""
        return int(self.settings["seed"])

    @property
    def methods(self) -> list[Method]:
        """Rows of the table."""
        return assembly.methods_of(self.settings)


def run(config: DictConfig) -> None:
    """Run the configured stages for every seed.

    Args:
        config: Composed Hydra configuration.

    Raises:
        InputError: If a value cannot be used; raised before any work where it can be seen.
        SystemExit: With the exit code of the processes, where this one launched several.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    check_settings(values)
    settings = shortened(values)
    accelerator = choose_accelerator(settings["trainer"])
    seeds = range(settings["seed"], settings["seed"] + settings["num_seeds"])
    several = settings["trainer"]["devices"] > 1 and not processes.launched()
    device = torch.device("cpu") if several else processes.own_device(accelerator)
    data = assembly.build_data(settings, device)
    assembly.check_buildable(settings, data.spec)
    for seed in seeds:
        folder_of(settings, seed).check_same({**settings, "seed": seed})
    if several:
        raise SystemExit(processes.launch(settings["trainer"]["devices"]))
    processes.die_with_parent()
    keep_freed_memory()
    site = Site(
        device=device,
        precision=settings["trainer"]["precision"],
        processes=processes.join_processes(accelerator),
    )
    try:
        runs = [run_seed({**settings, "seed": seed}, data, site) for seed in seeds]
        if len(runs) > 1 and "report" in settings["stages"] and site.processes.is_main:
            report_seeds(runs)
    finally:
        processes.leave_processes()


def folder_of(settings: dict[str, Any], seed: int) -> RunFolder:
    """Return the folder of one seed of a run."""
    return RunFolder(Path(settings["run_dir"]) / settings["name"] / str(seed))


def run_seed(settings: dict[str, Any], data: RealDataModule, site: Site) -> Run:
    """Run the configured stages for one seed and return the run."""
    run = Run(settings, folder_of(settings, settings["seed"]), data, site)
    if site.processes.is_main:
        run.folder.open(settings, provenance(site.device))
    stages = {"distill": distill, "evaluate": evaluate, "report": report}
    with wandb_loggers(run) as loggers:
        for name in settings["stages"]:
            stages[name](run._replace(loggers=loggers))
    return run


@contextmanager
def wandb_loggers(run: Run) -> Iterator[tuple[Logger, ...]]:
    """Open the Weights & Biases run of the main process, where it is asked for."""
    logger = run.settings["logger"]
    if logger["kind"] != "wandb" or not run.site.processes.is_main:
        yield ()
        return
    name = f"{run.settings['name']}-{run.seed}"
    folder = run.folder.path
    with wandb_tracker(
        project=logger["project"], name=name, folder=folder, config=run.settings
    ) as tracker:
        yield (tracker,)


def distill(run: Run) -> Path:
    """Make the method's distilled set and those of the baselines.

    Returns:
        Folder of the method's own set.
    """
    made = run.folder.path
    for method in run.methods:
        if method.kind == "whole":
            continue
        folder = run.folder.distilled(method.key, is_main=method.is_main)
        made = folder if method.is_main else made
        if is_complete(folder):
            load_set(folder)  # a damaged set is named before anything is built on it
            continue
        make = distill_by_matching if method.kind == "matching" else select_real
        distilled = make(run, method)
        if run.site.processes.is_main:
            save_set(folder, distilled)
        run.site.processes.barrier()
    return made


def distill_by_matching(run: Run, method: Method) -> DistilledSet:
    """Learn the images of ``method``, resuming from its checkpoint."""
    distiller = assembly.build_distiller(
        run.settings, run.data, run.site, euclidean=method.euclidean
    )
    options, total = run.settings["distiller"], assembly.num_iterations(run.settings)
    checkpoint = run.folder.checkpoint(method.key, is_main=method.is_main)
    first = resume(distiller, checkpoint)
    loggers: list[Logger] = []
    if run.site.processes.is_main:
        tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
        tracker.truncate(step=first + 1)
        loggers = [tracker, *run.loggers]
    run_distillation(
        distiller,
        num_iterations=total,
        checkpoint=checkpoint,
        checkpoint_every=options["checkpoint_every"],
        site=run.site,
        loggers=loggers,
        callbacks=[
            TrainingProgress(
                f"distil {method.label}", num_steps=total, first_step=first, console=CONSOLE
            )
        ],
    )
    state, published = distiller.state(), options["published_iterations"]
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
            "processes": run.site.processes.world_size,
        },
    )


def select_real(run: Run, method: Method) -> DistilledSet:
    """Choose the real images of a baseline."""
    table, ipc = run.data.train, run.settings["ipc"]
    if method.key == "random":
        generator = keyed_generator(run.seed, "random selection")
        indices = random_selection(table, ipc=ipc, generator=generator)
    else:
        network = assembly.herding_network(run.settings, run.data, run.site)
        indices = herding_selection(table, network, ipc=ipc)
    return as_distilled_set(run, method, table.gather(indices), factor=1)


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
        "config": run.settings,
        "provenance": provenance(run.site.device),
    }
    labels = class_major_labels(num_classes, ipc)
    return DistilledSet(images.flatten(0, 1).float().cpu(), labels, manifest)


def evaluate(run: Run) -> Path:
    """Train fresh students on every set and on all real images, under one protocol.

    Returns:
        The file of all results.
    """
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    results = []
    for method in run.methods:
        results.append(
            evaluate_students(
                candidate_of(run, method),
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
    if run.site.processes.is_main:
        save_results(run.folder.results, results)
    run.site.processes.barrier()
    return run.folder.results


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


def report(run: Run) -> Path:
    """Join results, figures, cost and configuration in one page and print the table.

    Returns:
        The page.
    """
    if run.site.processes.is_main:
        contents = contents_of(run)
        write_figures(run.folder.figures, contents)
        write_report(run.folder.report, contents)
        table = build_table(contents.results)
        write_text(run.folder.path / "table.md", to_markdown(table))
        CONSOLE.print(to_terminal(table))
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
    costs = [cost for label, distilled in sets.items() for cost in distillation_cost(distilled)]
    costs += [student_cost(result) for result in results]
    return Report(
        title=f"{run.settings['name']} · seed {run.seed}",
        class_names=run.data.spec.class_names,
        results=results,
        sets=sets,
        metrics=read_metrics(run.folder.metrics),
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
        f"students on {result.label}",
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
    table = build_table(results)
    write_text(folder / "table.md", to_markdown(table))
    CONSOLE.print(to_terminal(table))
