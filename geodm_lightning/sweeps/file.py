"""A search space read from a sweep file of Weights & Biases, its one home."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from geodm_lightning.sweeps.space import Axis, Space, Value, overrides_of, text_of
from geodm_lightning.types import InputError

METRIC = "accuracy"  # what a run logs and returns
METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
RANGES = ("uniform", "q_uniform", "int_uniform", "log_uniform_values")
KNOWN = (
    "name",
    "description",
    "project",
    "entity",
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "run_cap",
)


def read_space(path: Path) -> Space:
    """Read a sweep file.

    Args:
        path: YAML file that ``wandb sweep`` accepts.

    Returns:
        The search space. Arguments of its ``command`` that are neither the program nor a macro
        are overrides that every run has; the choice of a logger is left to whoever starts it.

    Raises:
        InputError: If the file cannot be read or asks for what a local sweep does not do.
    """
    values = _read(path)
    method, metric = values.get("method"), values.get("metric")
    if method not in METHODS:
        raise InputError(f"method of {path} must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(metric, dict) or metric.get("name") != METRIC:
        raise InputError(f"metric of {path} must be named {METRIC!r}, which is what a run returns")
    if metric.get("goal") not in GOALS:
        raise InputError(f"goal of {path} must be maximize or minimize, got {metric.get('goal')!r}")
    axes = [_axis(f"{key} of {path}", str(key), it) for key, it in values["parameters"].items()]
    constants = {a.key: a.choices[0] for a in axes if a.choices is not None and len(a.choices) == 1}
    varied = tuple(axis for axis in axes if axis.key not in constants)
    if not varied:
        raise InputError(f"sweep file {path} varies nothing; give a parameter several values")
    ranges = [axis.key for axis in varied if axis.choices is None]
    if method == "grid" and ranges:
        raise InputError(f"{path} is a grid, so {ranges[0]} needs values, not a range")
    return Space(
        name=str(values.get("name") or path.stem),
        method=str(method),
        maximise=metric["goal"] == "maximize",
        axes=varied,
        fixed=(*_arguments(values.get("command"), path), *overrides_of(constants)),
        run_cap=_run_cap(values.get("run_cap"), path),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no sweep file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"sweep file {path} is not YAML: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("parameters"), dict):
        raise InputError(f"sweep file {path} has no parameters; name what to vary")
    unknown = [key for key in values if key not in KNOWN]
    if unknown:
        raise InputError(
            f"sweep file {path} says {unknown[0]!r}, which a local sweep does not know; it knows "
            f"{', '.join(KNOWN)}"
        )
    return values


def _run_cap(value: Any, path: Path) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    raise InputError(f"run_cap of {path} must be a whole number of at least 1, got {value!r}")


def _arguments(command: Any, path: Path) -> tuple[str, ...]:
    """Return the overrides among the parts of a command."""
    if command is None:
        return ()
    if not isinstance(command, list) or "${args_no_hyphens}" not in command:
        raise InputError(
            f"command of {path} must be a list with ${{args_no_hyphens}}, as Hydra reads key=value"
        )
    parts = [str(part) for part in command if "=" in str(part)]
    return tuple(part for part in parts if not part.startswith("logger="))


def _axis(where: str, key: str, entry: Any) -> Axis:
    """Read one parameter; its distribution is what wandb takes it for where it names none."""
    if not isinstance(entry, Mapping) or "parameters" in entry:
        raise InputError(
            f"parameter {where} must be a mapping that says value, values, or min and max; keys "
            "of nested settings are written with dots"
        )
    kind = entry.get("distribution") or _implied(where, entry)
    if kind in ("constant", "categorical"):
        found = [entry.get("value")] if kind == "constant" else entry.get("values")
        if not isinstance(found, list) or not found or "probabilities" in entry:
            raise InputError(f"parameter {where} needs a list of values, all equally likely")
        return Axis(key, choices=tuple(map(_scalar, found)))
    if kind not in RANGES:
        raise InputError(
            f"parameter {where} has distribution {kind!r}; a local sweep knows constant, "
            f"categorical, {', '.join(RANGES)}"
        )
    low, high, step = entry.get("min"), entry.get("max"), entry.get("q", 1)
    if not (_is_number(low) and _is_number(high) and low < high):
        raise InputError(f"parameter {where} needs numbers min < max, got {low!r} and {high!r}")
    is_log, is_whole = kind == "log_uniform_values", kind == "int_uniform"
    if is_log and low <= 0:
        raise InputError(f"parameter {where} is logarithmic, so min must be positive, got {low}")
    if kind != "q_uniform":
        return Axis(key, low=low, high=high, is_log=is_log, is_whole=is_whole)
    if not (_is_number(step) and step > 0):
        raise InputError(f"parameter {where} needs a positive q, got {step!r}")
    return Axis(key, low=low, high=high, step=step)


def _implied(where: str, entry: Mapping[str, Any]) -> str:
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        whole = all(isinstance(entry[end], int) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise InputError(f"parameter {where} must say value, values, or min and max")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _scalar(value: Any) -> Value:
    """Return a value that is kept as it is, or what Hydra would read as a list or mapping."""
    return value if isinstance(value, (str, int, float, bool)) or value is None else text_of(value)
