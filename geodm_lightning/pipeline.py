"""The stages of a run: distill, evaluate, report; each resumable, skipped when complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf

from geodm_lightning import assembly, processes
from geodm_lightning.assembly import Method
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import is_complete, load_set, save_set
from geodm_lightning.distillers.loop import run_distillation
from geodm_lightning.distillers.selection import herding_selection, random_selection
from geodm_lightning.evaluation.result import EvaluationResult, save_results
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.provenance import peak_memory, provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.reporting.progress import ProgressDisplay
from geodm_lightning.reporting.tracking import CsvTracker, wandb_tracker
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.settings import check_settings, choose_accelerator, shortened
from geodm_lightning.site import Site


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
    site = Site(
        device=device,
        precision=settings["trainer"]["precision"],
        processes=processes.join_processes(accelerator),
    )
    try:
        runs = [run_seed({**settings, "seed": seed}, data, site) for seed in seeds]
        if len(runs) > 1 and site.processes.is_main:
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
    loggers: list[Logger] = []
    if run.site.processes.is_main:
        tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
        loggers = [tracker, *run.loggers]
    run_distillation(
        distiller,
        num_iterations=total,
        checkpoint=run.folder.checkpoint(method.key, is_main=method.is_main),
        checkpoint_every=options["checkpoint_every"],
        site=run.site,
        loggers=loggers,
        callbacks=[ProgressDisplay(f"distil {method.label}", total=total)],
    )
    state = distiller.state()
    return as_distilled_set(
        run,
        method,
        distiller.synthetic.unit_images(state["pixels"]),
        factor=distiller.synthetic.factor,
        iterations=total,
        published_iterations=options["num_iterations"],
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
