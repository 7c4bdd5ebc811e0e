"""One command: check the settings, start the processes, run the stages of every seed."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf

from geodm_lightning import assembly, processes
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.memory import explained
from geodm_lightning.methods import methods_of
from geodm_lightning.probes.memory_advice import MORE, memory_advice
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.tracking import wandb_tracker
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.settings import check_settings, choose_accelerator, shortened
from geodm_lightning.site import Site, open_site, settled_precision
from geodm_lightning.stages.audit import audit
from geodm_lightning.stages.distill import distill
from geodm_lightning.stages.evaluate import evaluate
from geodm_lightning.stages.imported import with_images_per_class
from geodm_lightning.stages.relabel import relabel
from geodm_lightning.stages.report import report, report_seeds
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.score import check_held_out, score
from geodm_lightning.types import InputError


class Prepared(NamedTuple):
    """A run whose settings have been checked against each other and against the data.

    Attributes:
        settings: Resolved configuration as plain containers.
        data: Real images, loaded.
        accelerator: ``"cpu"`` or ``"cuda"``.
        launches: Whether the stages run in processes that are still to be started.
    """

    settings: dict[str, Any]
    data: RealDataModule
    accelerator: str
    launches: bool

    @property
    def seeds(self) -> range:
        """Seeds of the run."""
        return range(self.settings["seed"], self.settings["seed"] + self.settings["num_seeds"])


def prepare(config: DictConfig, *, device: torch.device | None = None) -> Prepared:
    """Check all that can be checked before any work.

    Args:
        config: Composed Hydra configuration.
        device: Where the images are put; the device of this process when omitted.

    Raises:
        InputError: If a value cannot be used.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    check_settings(values)
    settings = without_held_out(shortened(values))
    settings = with_precision_used(settings)
    made = [row for row in methods_of(settings) if row.kind in ("matching", "generation")]
    for row in made:
        check_settings(row.settings)
    trainer = settings["trainer"]
    accelerator = choose_accelerator(trainer)
    launches = trainer["devices"] > 1 and not processes.launched()
    if device is None:
        device = torch.device("cpu") if launches else processes.own_device(accelerator)
    data = assembly.build_data(settings, device)
    settings = with_images_per_class(settings, data)
    check_held_out(settings, data)
    assembly.check_buildable(settings, data.spec, rows=[row.settings for row in made])
    prepared = Prepared(settings, data, accelerator, launches)
    for seed in prepared.seeds:
        folder_of(settings, seed).check_same({**settings, "seed": seed})
    check_logger(settings)
    return prepared


def run(config: DictConfig, *, command: Sequence[str] | None = None) -> float | None:
    """Run the configured stages for every seed.

    Args:
        config: Composed Hydra configuration.
        command: Script and arguments that compose it, for the processes this one may have to
            start; those of this process when omitted.

    Returns:
        Mean accuracy after the last epoch of the run's own method over its seeds, by its first
        supervision; None where nothing was evaluated.

    Raises:
        InputError: If a value cannot be used; raised before any work where it can be seen.
        SystemExit: With the exit code of a process that failed, where this one launched several.
    """
    processes.die_with_parent()
    prepared = explained("load", partial(prepare, config), lambda: MORE)
    settings = prepared.settings
    if prepared.launches:
        code = processes.launch(settings["trainer"]["devices"], command)
        if code:
            raise SystemExit(code)
        return accuracy_of(settings, prepared.seeds)
    site = open_site(
        prepared.accelerator,
        precision=config.trainer.precision,  # as asked for
        threads=settings["trainer"]["threads"],
        processes=processes.join_processes(prepared.accelerator),
        compiles=settings["trainer"]["compile"],
        replays=settings["trainer"]["graphs"],
        channels_last=settings["trainer"]["channels_last"],
    )
    try:
        runs = [run_seed({**settings, "seed": s}, prepared.data, site) for s in prepared.seeds]
        if len(runs) > 1 and "report" in settings["stages"] and site.processes.is_main:
            report_seeds(runs)
    finally:
        processes.leave_processes()
    return accuracy_of(settings, prepared.seeds)


def without_held_out(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep networks that never saw the held-out images apart from those that did.

    Where images are held out, everything trained on real images is cached in a folder of its
    own; where none are, the settings do not speak of it.
    """
    data = settings["data"]
    share = data.get("validation")
    if share:
        return {**settings, "cache_dir": f"{settings['cache_dir']}/validation_{share}"}
    data = {key: value for key, value in data.items() if key != "validation"}
    return {**settings, "data": data}


def with_precision_used(settings: dict[str, Any]) -> dict[str, Any]:
    """Write into the settings what networks are computed in on this machine.

    So a folder that was begun in one precision is not gone on with in another.
    """
    trainer = settings["trainer"]
    device = processes.own_device(choose_accelerator(trainer))
    used = settled_precision(trainer["precision"], device)
    return {**settings, "trainer": {**trainer, "precision": used}}


def check_logger(settings: dict[str, Any]) -> None:
    """Check that an agent of Weights & Biases is given one run to log to, not several.

    Raises:
        InputError: If it is not.
    """
    named = os.environ.get("WANDB_RUN_ID")
    if settings["logger"]["kind"] == "wandb" and named and settings["num_seeds"] > 1:
        raise InputError(
            f"WANDB_RUN_ID={named} names one run, but num_seeds={settings['num_seeds']} makes "
            "one per seed; use num_seeds=1 and let the sweep choose the seed"
        )


def accuracy_of(settings: dict[str, Any], seeds: Iterable[int]) -> float | None:
    """Return the mean accuracy of a run's own method, None where nothing was evaluated."""
    if "evaluate" not in settings["stages"]:
        return None
    method = next(row.key for row in methods_of(settings) if row.is_main)
    supervision = next(iter(settings["supervision"]))
    return statistics.fmean(
        result.mean
        for seed in seeds
        for result in load_results(folder_of(settings, seed).results)
        if (result.method, result.architecture) == (method, "")
        and result.supervision.name == supervision
    )


def folder_of(settings: dict[str, Any], seed: int) -> RunFolder:
    """Return the folder of one seed of a run."""
    return RunFolder(Path(settings["run_dir"]) / settings["name"] / str(seed))


def run_seed(settings: dict[str, Any], data: RealDataModule, site: Site) -> Run:
    """Run the configured stages for one seed and return the run."""
    run = Run(settings, folder_of(settings, settings["seed"]), data, site)
    if site.processes.is_main:
        run.folder.open(settings, provenance(*site[:2]))
    stages = {
        "distill": distill,
        "relabel": relabel,
        "evaluate": evaluate,
        "audit": audit,
        "score": score,
        "report": report,
    }
    with wandb_loggers(run) as loggers:
        for name in settings["stages"]:
            work = partial(stages[name], run._replace(loggers=loggers))
            explained(name, work, partial(memory_advice, run, name))
        accuracy = accuracy_of(settings, [run.seed])
        if accuracy is not None:
            for logger in loggers:
                logger.log_metrics({"accuracy": accuracy})
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
