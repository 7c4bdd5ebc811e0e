"""What a table is made of: columns, and groups of rows that share a protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from geodm_lightning.types import InputError


class Published(NamedTuple):
    """What a paper reports for a cell.

    Attributes:
        value: In the unit of the column's measure: percent, seconds or gigabytes.
        std: Standard deviation, None where the paper gives none.
        source: Where the number was read.
        note: What a reader must know to compare, empty if nothing.
        verified: Whether the source was read for it rather than recalled.
        tolerance: Largest difference that counts as reproduced, None for the table's rule.
    """

    value: float
    std: float | None
    source: str
    note: str = ""
    verified: bool = True
    tolerance: float | None = None


class Column(NamedTuple):
    """A column: an experiment and what is read from its results.

    Attributes:
        key: Name on the command line.
        label: Name shown to readers.
        dataset: Heading over columns of one data set.
        experiment: Option of ``configs/experiment``.
        overrides: Settings that differ from the experiment's.
        run: Name of the run, shared by columns that read different things from one.
        measure: ``"accuracy"`` (%), ``"seconds"`` (per iteration) or ``"memory"`` (peak, GB).
        architecture: Architecture of the students, empty for the protocol's own.
    """

    key: str
    label: str
    dataset: str
    experiment: str
    overrides: tuple[str, ...]
    run: str
    measure: str
    architecture: str


class Row(NamedTuple):
    """A row: the key of a result, and what papers report for it by column.

    Attributes:
        key: Name on the command line, unique in the table.
        label: Name shown to readers.
        result: Key of the result in ``results.json``, without the architecture.
        published: Values by column.
        unpublished: Why there are no published values, empty where there could be.
    """

    key: str
    label: str
    result: str
    published: Mapping[str, Published]
    unpublished: str


class Group(NamedTuple):
    """Rows that one run makes and judges under one protocol.

    Attributes:
        key: Name on the command line.
        label: Name shown to readers.
        overrides: Settings of its runs.
        columns: Further settings by column.
        left_out: Columns that the group has no run for.
        rows: Its rows.
    """

    key: str
    label: str
    overrides: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    rows: tuple[Row, ...]


class Cell(NamedTuple):
    """Where a column crosses a row.

    Attributes:
        group: Group of the row.
        row: The row.
        column: The column.
    """

    group: Group
    row: Row
    column: Column

    @property
    def key(self) -> str:
        """Name on the command line, ``COLUMN/ROW``."""
        return f"{self.column.key}/{self.row.key}"

    @property
    def result(self) -> str:
        """Key of the cell's result in the ``results.json`` of its run."""
        suffix = f"@{self.column.architecture}" if self.column.architecture else ""
        return f"{self.row.result}{suffix}"

    @property
    def published(self) -> Published | None:
        """What a paper reports, None where nothing is known."""
        return self.row.published.get(self.column.key)


class Table(NamedTuple):
    """A table of a paper, or one like it.

    Attributes:
        key: Name on the command line.
        title: Heading.
        notes: What readers must know.
        tolerance: Points allowed beside a published value that states no deviation.
        columns: Its columns.
        groups: Its groups of rows.
    """

    key: str
    title: str
    notes: tuple[str, ...]
    tolerance: float
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]

    def cells(self) -> Iterator[Cell]:
        """Return the cells, group by group, row by row."""
        for group in self.groups:
            for row in group.rows:
                for column in self.columns:
                    if column.key not in group.left_out:
                        yield Cell(group, row, column)

    def cell(self, key: str) -> Cell:
        """Return the cell of a name ``COLUMN/ROW``.

        Raises:
            InputError: If there is none.
        """
        cells = {cell.key: cell for cell in self.cells()}
        if key not in cells:
            column, _, row = key.partition("/")
            columns = dict.fromkeys(cell.column.key for cell in cells.values())
            rows = dict.fromkeys(cell.row.key for cell in cells.values())
            if column not in columns or row in rows:
                wanted, known = "columns", columns
            else:
                wanted, known = "rows", rows
            raise InputError(
                f"table {self.key} has no cell '{key}' (COLUMN/ROW); its {wanted} are "
                f"{', '.join(known)}"
            )
        return cells[key]

    def selected(self, *, columns: Sequence[str] | None, groups: Sequence[str] | None) -> Table:
        """Return the table with some of its columns and groups, None for all of them.

        Raises:
            InputError: Naming one that the table does not have.
        """
        return self._replace(
            columns=_choose(self.columns, columns, f"column of table {self.key}"),
            groups=_choose(self.groups, groups, f"group of table {self.key}"),
        )


def _choose(known: Iterable, wanted: Sequence[str] | None, what: str) -> tuple:
    by_key = {item.key: item for item in known}
    if wanted is None:
        return tuple(by_key.values())
    unknown = [key for key in wanted if key not in by_key]
    if unknown or not wanted:
        raise InputError(
            f"unknown {what} {unknown[0]!r}; choose among {', '.join(by_key)}"
            if unknown
            else f"no {what} is chosen; choose among {', '.join(by_key)}"
        )
    return tuple(by_key[key] for key in dict.fromkeys(wanted))
