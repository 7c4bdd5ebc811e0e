"""One command: check the settings, start the processes, run the stages of every seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf

from geodm_lightning import assembly, processes
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.methods import methods_of
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.tracking import wandb_tracker
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.settings import check_settings, choose_accelerator, shortened
from geodm_lightning.site import Site, open_site
from geodm_lightning.stages.distill import distill
from geodm_lightning.stages.evaluate import evaluate
from geodm_lightning.stages.relabel import relabel
from geodm_lightning.stages.report import report, report_seeds
from geodm_lightning.stages.run import Run


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
    made = [row for row in methods_of(settings) if row.kind in ("matching", "generation")]
    for row in made:
        check_settings(row.settings)
    trainer = settings["trainer"]
    accelerator = choose_accelerator(trainer)
    seeds = range(settings["seed"], settings["seed"] + settings["num_seeds"])
    several = trainer["devices"] > 1 and not processes.launched()
    device = torch.device("cpu") if several else processes.own_device(accelerator)
    data = assembly.build_data(settings, device)
    assembly.check_buildable(settings, data.spec, rows=[row.settings for row in made])
    for seed in seeds:
        folder_of(settings, seed).check_same({**settings, "seed": seed})
    if several:
        raise SystemExit(processes.launch(trainer["devices"]))
    processes.die_with_parent()
    site = open_site(
        accelerator,
        precision=trainer["precision"],
        threads=trainer["threads"],
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
    stages = {"distill": distill, "relabel": relabel, "evaluate": evaluate, "report": report}
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
