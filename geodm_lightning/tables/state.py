"""What is there of a table's runs: done, partial, missing or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geodm_lightning.command_line import CONFIGS, register_resolvers
from geodm_lightning.evaluation.merging import merge_results
from geodm_lightning.evaluation.result import EvaluationResult, load_results
from geodm_lightning.pipeline import without_held_out
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.settings import check_settings, shortened
from geodm_lightning.site import LEFT_TO_HARDWARE
from geodm_lightning.tables.runs import PlannedRun
from geodm_lightning.types import InputError

DONE, PARTIAL, MISSING, REFUSED = "done", "partial", "missing", "refused"


class RunState(NamedTuple):
    """What is there of one run.

    Attributes:
        run: The run.
        folder: Folder of its seeds.
        state: ``"done"``, ``"partial"``, ``"missing"`` or ``"refused"``.
        reason: What is missing or why it is refused, in one line; empty where it is done.
        results: Its results by key, the seeds that are there merged.
    """

    run: PlannedRun
    folder: Path
    state: str
    reason: str
    results: Mapping[str, EvaluationResult]


def run_settings(run: PlannedRun, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings that a run would have, checked.

    Args:
        run: The run.
        overrides: Where it writes, and its name and seeds.

    Raises:
        InputError: If an override names no setting or a value cannot be used.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        config = compose_config([*run.overrides, *overrides])
        values: Any = OmegaConf.to_container(config, resolve=True)
        check_settings(values)
    except (HydraException, InputError) as error:
        raise InputError(f"run {run.name}: {error}") from error
    return without_held_out(shortened(values))


def compose_config(overrides: Sequence[str]) -> Any:
    """Return what ``experiments/run.py`` composes of overrides, inside a Hydra job or without."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    if GlobalHydra.instance().is_initialized():
        return compose("config", list(overrides))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", list(overrides))


def read_run(
    run: PlannedRun, folder: Path, *, seeds: Sequence[int], settings: Mapping[str, Any] | None
) -> RunState:
    """Return the state of a run and the results that are there.

    Args:
        run: The run.
        folder: Folder of its seeds.
        seeds: Seeds that it needs.
        settings: What the run would be made with, to refuse a folder that was made otherwise and
            to count its students; None to take what is there.
    """
    try:
        by_seed = {seed: read_seed(run, folder / str(seed), seed, settings) for seed in seeds}
        merged = {
            key: merge_results([results[key] for results in by_seed.values() if key in results])
            for key in run.results
            if any(key in results for results in by_seed.values())
        }
        check_protocols(run, merged)
    except InputError as error:
        return RunState(run, folder, REFUSED, str(error), {})
    wanted = num_students(settings) if settings is not None else 1
    lacking = [
        f"{key} of seed {seed}"
        for seed, results in by_seed.items()
        for key in run.results
        if key not in results or len(results[key].students) < wanted
    ]
    if not lacking:
        return RunState(run, folder, DONE, "", merged)
    begun = any((folder / str(seed) / "config.yaml").is_file() for seed in seeds)
    count = len(run.results) * len(seeds)
    reason = f"{len(lacking)} of {count} results missing: {', '.join(lacking[:3])}"
    reason += " …" if len(lacking) > 3 else ""
    return RunState(run, folder, PARTIAL if begun else MISSING, reason, merged)


def read_seed(
    run: PlannedRun, folder: Path, seed: int, settings: Mapping[str, Any] | None
) -> dict[str, EvaluationResult]:
    """Return the results of one seed by key, those that the table needs.

    Raises:
        InputError: If the folder was made with other settings, or its results are damaged.
    """
    if settings is not None:
        own = RunFolder(folder)
        own.check_same({**with_precision_of(own, settings), "seed": seed})
    path = RunFolder(folder).results
    results = {result.key: result for result in load_results(path)} if path.is_file() else {}
    return {key: results[key] for key in run.results if key in results}


def with_precision_of(folder: RunFolder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the precision in which a run of them was computed.

    Where they leave it to the hardware, that is the one the run tells, as it may have been made
    on another machine than the one that reads it.
    """
    trainer = settings.get("trainer", {})
    asked = trainer.get("precision")
    if asked in LEFT_TO_HARDWARE:
        asked = folder.settings().get("trainer", {}).get("precision", asked)
    elif asked == "bf16-emulated":
        asked = "bf16-mixed"
    return {**settings, "trainer": {**trainer, "precision": asked}} if trainer else {**settings}


def num_students(settings: Mapping[str, Any]) -> int:
    """Return how many students judge each set under some settings."""
    cap = settings["schedule"]["max_students"]
    wanted: int = settings["evaluation"]["num_students"]
    return wanted if cap is None else min(wanted, cap)


def check_protocols(run: PlannedRun, results: Mapping[str, EvaluationResult]) -> None:
    """Check that the cells of a column and group were judged under one protocol.

    Raises:
        InputError: Naming both protocols.
    """
    for column in {cell.column.key for cell in run.cells}:
        here = [c.result for c in run.cells if c.column.key == column and c.result in results]
        for key in here[1:]:
            first, other = results[here[0]], results[key]
            if first.protocol.comparison_digest() != other.protocol.comparison_digest():
                raise InputError(
                    f"{run.name}, column {column}: {here[0]} was judged under protocol "
                    f"{first.protocol.name} ({first.protocol.digest()}), {key} under "
                    f"{other.protocol.name} ({other.protocol.digest()}); delete the run folder"
                )
