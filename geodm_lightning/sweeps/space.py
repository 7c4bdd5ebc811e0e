"""What a sweep varies: axes, points, and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from geodm_lightning.files import name_of

Value = str | int | float | bool | None
Point = dict[str, Value]
"""One value for every axis, by the axis' key."""

DIGITS = 4  # significant digits of a drawn number, enough for any curvature and short to read
NAME_LENGTH = 60


class Axis(NamedTuple):
    """What one parameter may be.

    Attributes:
        key: Setting it changes, with dots, or a group of the configuration.
        choices: Its values, None where it is a number of a range.
        low: Smallest number of a range.
        high: Largest number of a range.
        is_log: Whether the logarithm is uniform rather than the number.
        is_whole: Whether only whole numbers are meant.
        step: Distance of neighbouring numbers, None for any.
    """

    key: str
    choices: tuple[Value, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False
    step: float | None = None

    @property
    def short(self) -> str:
        """Last part of the key."""
        return self.key.rsplit(".", 1)[-1]


class Space(NamedTuple):
    """A sweep: what is varied, how, and on what.

    Attributes:
        name: Name of the sweep.
        method: ``"grid"``, ``"random"`` or ``"bayes"``.
        maximise: Whether a larger metric is better.
        axes: What is varied.
        fixed: Overrides that every run of the sweep has.
        run_cap: Runs the file asks for, None where it does not say.
    """

    name: str
    method: str
    maximise: bool
    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    run_cap: int | None

    def grid(self) -> list[Point]:
        """Return every combination of choices, the last axis running fastest."""
        keys = [axis.key for axis in self.axes]
        values = product(*(axis.choices or () for axis in self.axes))
        return [dict(zip(keys, combination, strict=True)) for combination in values]


def overrides_of(point: Point) -> tuple[str, ...]:
    """Return a point as overrides of the command line."""
    return tuple(f"{key}={text_of(value)}" for key, value in point.items())


def text_of(value: Any) -> str:
    """Return a value as Hydra reads it on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return repr(value) if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """Return text as Hydra reads it literally, in quotes where it must be."""
    if re.fullmatch(r"[A-Za-z0-9._/+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def rounded(value: float, axis: Axis) -> float:
    """Return a drawn number with four significant digits, inside the range still."""
    return min(max(float(f"{value:.{DIGITS}g}"), axis.low), axis.high)


def name_of_point(point: Point) -> str:
    """Return a name for files that tells the values and is this point's alone.

    Example:
        >>> name_of_point({"geometry.curvature.hyperbolic": 0.5})
        'hyperbolic-0.5_cc6eb070'
    """
    text = "_".join(f"{key.rsplit('.', 1)[-1]}-{text_of(value)}" for key, value in point.items())
    readable = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[:NAME_LENGTH]
    return f"{readable}_{name_of(point)[:8]}"
