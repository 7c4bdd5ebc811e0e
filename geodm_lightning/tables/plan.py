"""What the command line asks of a table, resolved: the table, its runs, where they write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from geodm_lightning.estimates.page import check_wanted
from geodm_lightning.tables.cells import Table
from geodm_lightning.tables.definition import read_table
from geodm_lightning.tables.runs import PlannedRun, planned_runs
from geodm_lightning.tables.state import RunState, read_run, run_settings
from geodm_lightning.types import InputError

COUNTS = {"seed": 0, "num_seeds": 1, "jobs": 1}
FLAGS = ("list", "run")
LISTS = ("columns", "groups", "only")
TEXTS = ("reproduce", "launcher")


class Plan(NamedTuple):
    """A table and the runs behind it.

    Attributes:
        table: The chosen columns and groups.
        runs: Their runs.
        options: The other settings of ``configs/table.yaml``.
    """

    table: Table
    runs: tuple[PlannedRun, ...]
    options: Mapping[str, Any]

    @property
    def seeds(self) -> range:
        """Seeds of every run."""
        return range(self.options["seed"], self.options["seed"] + self.options["num_seeds"])

    @property
    def run_dir(self) -> Path:
        """Folder of the table's runs."""
        return Path(self.options["run_dir"]) / "tables" / self.table.key

    @property
    def output(self) -> Path:
        """Folder of the table's pages."""
        return Path(self.options["output"]) / self.table.key

    def overrides_of(self, run: PlannedRun) -> tuple[str, ...]:
        """Return the overrides with which ``experiments/run.py`` makes a run."""
        return (
            *run.overrides,
            f"name={run.name}",
            f"run_dir={_quoted(self.run_dir)}",
            f"cache_dir={_quoted(self.options['cache_dir'])}",
            f"seed={self.options['seed']}",
            f"num_seeds={self.options['num_seeds']}",
        )

    def state_of(self, run: PlannedRun, *, strict: bool = True) -> RunState:
        """Return what is there of a run.

        Args:
            run: The run.
            strict: Whether a folder made with other settings is refused.
        """
        folder = self.run_dir / run.name
        begun = any((folder / str(seed) / "config.yaml").is_file() for seed in self.seeds)
        settings = self.settings_of(run) if strict and begun else None
        return read_run(run, folder, seeds=self.seeds, settings=settings)

    def settings_of(self, run: PlannedRun) -> dict[str, Any]:
        """Return the settings of a run, checked.

        Raises:
            InputError: If a value cannot be used.
        """
        return run_settings(run, overrides=self.overrides_of(run)[len(run.overrides) :])


def read_plan(name: str, values: Mapping[str, Any]) -> Plan:
    """Read the settings of ``configs/table.yaml``.

    Args:
        name: Name of the table.
        values: Plain values, the definition of the table under ``table`` and the schedule that
            was chosen for all runs under ``schedule``, if one was.

    Raises:
        InputError: If a value cannot be used or names what the table does not have.
    """
    options = {key: values[key] for key in values if key not in ("table", "schedule", "hydra")}
    _check_options(options)
    table = read_table(name, values["table"])
    schedule = values["schedule"]["name"] if "schedule" in values else None
    if options["reproduce"] is not None:
        cell = table.cell(options["reproduce"])
        chosen = table.selected(columns=[cell.column.key], groups=[cell.group.key])
    else:
        chosen = table.selected(columns=options["columns"], groups=options["groups"])
    runs = planned_runs(chosen, schedule=schedule, overrides=overrides_in(options["overrides"]))
    if not runs:
        raise InputError(
            f"table {name} has no cell where the chosen columns and groups cross; "
            f"group {chosen.groups[0].key} leaves out {', '.join(chosen.groups[0].left_out)}"
        )
    unknown = set(options["only"] or ()) - {run.name for run in runs}
    if unknown:
        raise InputError(
            f"unknown run {sorted(unknown)[0]!r} in only; choose among "
            f"{', '.join(run.name for run in runs)}"
        )
    return Plan(chosen, tuple(runs), options)


def overrides_in(values: Any) -> tuple[str, ...]:
    """Return the overrides of all runs, from a mapping or a list of ``"KEY=VALUE"``.

    Raises:
        InputError: If ``values`` is neither.

    Example:
        >>> overrides_in({"network.width": 64, "baselines": ["random", "base"], "dry_run": True})
        ('network.width=64', "baselines=['random','base']", 'dry_run=true')
    """
    if values is None:
        return ()
    if isinstance(values, Mapping):
        return tuple(f"{key}={_written(value)}" for key, value in values.items())
    if _is_texts(values) and all("=" in text or text.startswith("~") for text in values):
        return tuple(values)
    raise InputError(
        f'overrides must read "overrides={{network.width:64,data.root:PATH}}", got {values!r}'
    )


def _written(value: Any, *, inside: bool = False) -> str:
    """Return a value as Hydra reads it on the command line."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_written(v, inside=True)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, inside=True) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _quoted(value) if inside and isinstance(value, str) else str(value)


def _check_options(options: Mapping[str, Any]) -> None:
    for key, least in COUNTS.items():
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key in FLAGS:
        if not isinstance(options[key], bool):
            raise InputError(f"{key} must be true or false, got {options[key]!r}")
    for key in LISTS:
        if options[key] is not None and not _is_texts(options[key]):
            raise InputError(f"{key} must be a list of names or null, got {options[key]!r}")
    for key in TEXTS:
        if options[key] is not None and not isinstance(options[key], str):
            raise InputError(f"{key} must be a name or null, got {options[key]!r}")
    check_wanted(options["estimate"])
    tolerance = options["tolerance"]
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and 0 <= tolerance < float("inf")):
        raise InputError(f"tolerance must be a number of at least 0 or null, got {tolerance!r}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _quoted(path: Any) -> str:
    """Return a path as a value that Hydra reads as it is."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
