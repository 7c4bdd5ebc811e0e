"""A table of many runs: what was measured beside what was published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

UNITS = {"accuracy": "%", "seconds": "s per iteration", "memory": "GB"}


class Cost(NamedTuple):
    """What a cell took, means over its seeds.

    Attributes:
        seconds_per_iteration: Of making the set, None where nothing was learned.
        seconds: Of making the set, likewise.
        peak_memory: Bytes, likewise.
        student_seconds: Of all students of a seed.
        device: Name of the device.
    """

    seconds_per_iteration: float | None
    seconds: float | None
    peak_memory: float | None
    student_seconds: float
    device: str


class Measured(NamedTuple):
    """What was measured for a cell, in the unit of its column.

    Attributes:
        value: Mean.
        std: Sample standard deviation, None for a single value.
        interval: 95 % interval of the mean, None for a single value.
        seeds: Seeds behind it.
        students: Students behind it.
        iterations: Share of the published iterations, None where none are published.
        epochs: Share of the published epochs of the protocol.
        protocol: Name of the protocol.
        digest: Its digest.
        tested_on: ``"test"`` or ``"validation"``.
        cost: What it took.
    """

    value: float
    std: float | None
    interval: tuple[float, float] | None
    seeds: int
    students: int
    iterations: float | None
    epochs: float
    protocol: str
    digest: str
    tested_on: str
    cost: Cost


class Reported(NamedTuple):
    """What a paper reports for a cell, in the unit of its column.

    Attributes:
        value: The number.
        std: Its standard deviation, None where the paper gives none.
        source: Where it was read.
        note: What a reader must know, empty if nothing.
    """

    value: float
    std: float | None
    source: str
    note: str


class StudyColumn(NamedTuple):
    """A column: its name, labels and what it measures."""

    key: str
    label: str
    dataset: str
    measure: str


class StudyCell(NamedTuple):
    """Measured and published value of a cell, each None where there is none.

    Attributes:
        ours: What was measured.
        reported: What a paper reports.
        is_best: Whether it leads its group and column beyond chance.
    """

    ours: Measured | None
    reported: Reported | None
    is_best: bool = False


class StudyRow(NamedTuple):
    """A row; ``unpublished`` says why no paper reports it, empty where one might."""

    key: str
    label: str
    unpublished: str
    cells: Mapping[str, StudyCell]


class StudyGroup(NamedTuple):
    """Rows under one protocol."""

    key: str
    label: str
    rows: tuple[StudyRow, ...]


class Study(NamedTuple):
    """A table and all that its pages say.

    Attributes:
        key: Name on the command line.
        title: Heading.
        notes: What readers must know.
        columns: Its columns.
        groups: Its groups of rows.
        problems: Runs that are refused, in one line each.
    """

    key: str
    title: str
    notes: tuple[str, ...]
    columns: tuple[StudyColumn, ...]
    groups: tuple[StudyGroup, ...]
    problems: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[StudyGroup, StudyRow, StudyColumn, StudyCell]]:
        """Return every cell with its group, row and column."""
        for group in self.groups:
            for row in group.rows:
                for column in self.columns:
                    if column.key in row.cells:
                        yield group, row, column, row.cells[column.key]
