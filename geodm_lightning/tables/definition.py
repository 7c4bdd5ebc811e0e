"""Reading the definition of a table, strictly: an unknown key is an error, never ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from geodm_lightning.tables.cells import Column, Group, Published, Row, Table
from geodm_lightning.tables.runs import planned_runs
from geodm_lightning.types import InputError

MEASURES = ("accuracy", "seconds", "memory")
REQUIRED = object()  # no default


def read_table(key: str, values: Any) -> Table:
    """Read a table from the plain values of ``configs/table/KEY.yaml``.

    Args:
        key: Name of the table.
        values: Mapping with ``title``, ``notes``, ``tolerance``, ``sources`` (text by name),
            ``columns`` and ``groups``.

    Raises:
        InputError: If a key is missing or unknown, a value has another type, a published value
            names a column or a source that is not there, or two rows have one name.
    """
    name = f"table {key}"
    fields = _fields(
        values, name, title=REQUIRED, notes=[], tolerance=REQUIRED, sources={}, columns=REQUIRED,
        groups=REQUIRED,
    )  # fmt: skip
    sources = {k: _text(v, f"{name}: source {k}") for k, v in _mapping(fields["sources"], name)}
    columns = tuple(_column(k, v, name) for k, v in _mapping(fields["columns"], name))
    groups = tuple(_group(k, v, name, sources) for k, v in _mapping(fields["groups"], name))
    table = Table(
        key=key,
        title=_text(fields["title"], f"{name}: title"),
        notes=_texts(fields["notes"], f"{name}: notes"),
        tolerance=_number(fields["tolerance"], f"{name}: tolerance"),
        columns=columns,
        groups=groups,
    )
    _check_names(table)
    _check_runs(table)
    return table


def _column(key: str, values: Any, name: str) -> Column:
    name = f"{name}: column {key}"
    fields = _fields(
        values, name, label=REQUIRED, dataset=REQUIRED, experiment=REQUIRED, overrides=[], run=key,
        measure="accuracy", architecture="",
    )  # fmt: skip
    if fields["measure"] not in MEASURES:
        raise InputError(
            f"{name}: unknown measure {fields['measure']!r}; choose one of {', '.join(MEASURES)}"
        )
    texts = ("label", "dataset", "experiment", "run", "measure", "architecture")
    own = {field: _text(fields[field], f"{name}: {field}") for field in texts}
    return Column(key, overrides=_texts(fields["overrides"], f"{name}: overrides"), **own)


def _group(key: str, values: Any, name: str, sources: Mapping[str, str]) -> Group:
    name = f"{name}: group {key}"
    fields = _fields(
        values, name, label=REQUIRED, overrides=[], columns={}, left_out=[], rows=REQUIRED
    )
    return Group(
        key,
        label=_text(fields["label"], f"{name}: label"),
        overrides=_texts(fields["overrides"], f"{name}: overrides"),
        columns={k: _texts(v, f"{name}: {k}") for k, v in _mapping(fields["columns"], name)},
        left_out=_texts(fields["left_out"], f"{name}: left_out"),
        rows=tuple(_row(k, v, name, sources) for k, v in _mapping(fields["rows"], name)),
    )


def _row(key: str, values: Any, name: str, sources: Mapping[str, str]) -> Row:
    name = f"{name}: row {key}"
    fields = _fields(values, name, label=REQUIRED, result=key, published={}, unpublished="")
    published = {
        column: _published(cell, f"{name}: {column}", sources)
        for column, cell in _mapping(fields["published"], name)
    }
    if published and fields["unpublished"]:
        raise InputError(f"{name} has published values and a reason why there are none")
    texts = ("label", "result", "unpublished")
    own = {field: _text(fields[field], f"{name}: {field}") for field in texts}
    return Row(key, published=published, **own)


def _published(values: Any, name: str, sources: Mapping[str, str]) -> Published:
    fields = _fields(
        values, name, value=REQUIRED, std=None, source=REQUIRED, note="", verified=True,
        tolerance=None,
    )  # fmt: skip
    if fields["source"] not in sources:
        raise InputError(
            f"{name}: unknown source {fields['source']!r}; choose one of {', '.join(sources)}"
        )
    if not isinstance(fields["verified"], bool):
        raise InputError(f"{name}: verified must be true or false, got {fields['verified']!r}")
    own = {
        field: None if fields[field] is None else _number(fields[field], f"{name}: {field}")
        for field in ("std", "tolerance")
    }
    return Published(
        value=_number(fields["value"], f"{name}: value"),
        source=sources[fields["source"]],
        note=_text(fields["note"], f"{name}: note"),
        verified=fields["verified"],
        **own,
    )


def _check_names(table: Table) -> None:
    """Check that rows have names of their own and speak of columns that are there."""
    rows = [row.key for group in table.groups for row in group.rows]
    twice = [key for key in rows if rows.count(key) > 1]
    if twice:
        raise InputError(f"table {table.key}: row {twice[0]} is there twice; rename one")
    columns = {column.key for column in table.columns}
    runs = {column.run for column in table.columns}
    for group in table.groups:
        mentioned = [(key, "left_out", columns) for key in group.left_out]
        mentioned += [(key, "columns", runs) for key in group.columns]
        mentioned += [(k, f"row {row.key}", columns) for row in group.rows for k in row.published]
        for key, where, known in mentioned:
            if key not in known:
                raise InputError(
                    f"table {table.key}: group {group.key}: {where} speaks of column {key!r}, "
                    f"which is not there; choose among {', '.join(sorted(known))}"
                )


def _check_runs(table: Table) -> None:
    """Check that columns which share a run are made by the same experiment and settings."""
    for run in planned_runs(table):
        made = {(cell.column.experiment, cell.column.overrides) for cell in run.cells}
        if len(made) > 1:
            raise InputError(
                f"table {table.key}: columns of run {run.name} differ in experiment or overrides; "
                "give each a run of its own"
            )


def _fields(values: Any, name: str, **defaults: Any) -> dict[str, Any]:
    """Return the values of a mapping with defaults; nothing unknown, nothing missing."""
    given = dict(_mapping(values, name))
    unknown = [key for key in given if key not in defaults]
    if unknown:
        raise InputError(f"{name}: unknown key {unknown[0]!r}; it may have {', '.join(defaults)}")
    missing = [key for key, default in defaults.items() if default is REQUIRED and key not in given]
    if missing:
        raise InputError(f"{name} lacks {', '.join(missing)}")
    return {**defaults, **given}


def _mapping(values: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        raise InputError(f"{name}: expected names with values, got {values!r}")
    return [(str(key), value) for key, value in values.items()]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {value!r}")
    return value


def _texts(values: Any, name: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise InputError(f"{name} must be a list, got {values!r}")
    return tuple(_text(value, name) for value in values)


def _number(value: Any, name: str) -> float:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)
