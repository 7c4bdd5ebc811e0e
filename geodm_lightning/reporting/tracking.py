"""Where logged numbers go: ``metrics.csv`` always, Weights & Biases on request."""

from __future__ import annotations

import csv
import io
import netrc
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from geodm_lightning.files import write_text
from geodm_lightning.types import InputError

COLUMNS = ("stage", "series", "step", "key", "value")
WANDB_HOST = "api.wandb.ai"
# Seconds until wandb gives up on its own process and on a run to begin, 30 and 90 by default: a
# busy machine, or a cold disk of a cluster, takes longer to start a program.
PATIENCE = {"WANDB__SERVICE_WAIT": "300", "WANDB_INIT_TIMEOUT": "300"}


class Curve(NamedTuple):
    """One logged number over the steps, in the order it was written.

    Attributes:
        steps: Step of each value.
        values: The values; may hold NaN where a run went wrong.
    """

    steps: list[int]
    values: list[float]


Metrics = dict[str, dict[str, dict[str, Curve]]]
"""``metrics[stage][series][key]`` is a :class:`Curve`."""


class CsvTracker(Logger):
    """Lightning logger that appends long-form rows to a CSV file.

    Every call opens, writes and closes, so nothing is lost in a buffer and several trackers may
    share one file: one for the distillation, one for each student. A last line that a kill cut
    short is removed when a tracker is made.

    Args:
        path: The file, made with a header if missing.
        stage: First column, such as ``"distill"``.
        series: Second column: whose numbers these are, such as ``"geodm"``.

    Raises:
        InputError: If the file has other columns or a name holds a line break.
    """

    def __init__(self, path: Path, *, stage: str, series: str) -> None:
        super().__init__()
        if "\n" in stage + series or "\r" in stage + series:
            raise InputError(f"stage and series must be one line, got {stage!r} and {series!r}")
        self.path, self.stage, self.series = path, stage, series
        _repair(path)

    @property
    def name(self) -> str:
        """Stage of the rows."""
        return self.stage

    @property
    def version(self) -> str:
        """Series of the rows."""
        return self.series

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **_: Any) -> None:
        """Leave hyperparameters to ``config.yaml``, which is their one home."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row per number and flush.

        Args:
            metrics: Numbers by key; Lightning's own ``epoch`` is left out.
            step: Step of the numbers; 0 when None.
        """
        rows = [
            _Row(self.stage, self.series, step or 0, key, float(value))
            for key, value in metrics.items()
            if key != "epoch"
        ]
        try:
            with self.path.open("a", encoding="utf-8", newline="") as handle:
                handle.write(_to_csv(rows))
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; choose another folder with "
                "run_dir=PATH or free space"
            ) from error

    def truncate(self, *, step: int) -> None:
        """Drop this series' rows from ``step`` on: those that a resumed run writes again."""
        kept = [
            row
            for row in _read_rows(self.path)
            if (row.stage, row.series) != (self.stage, self.series) or row.step < step
        ]
        write_text(self.path, _to_csv([COLUMNS, *kept]))


def _to_csv(rows: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _repair(path: Path) -> None:
    """Make the file with its header, or cut off a half-written last line."""
    header = ",".join(COLUMNS) + "\n"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        write_text(path, header)
        return
    if not whole.startswith(header):
        raise InputError(f"{path} does not begin with {header.strip()!r}; move it away")
    if whole != text:
        write_text(path, whole)


class _Row(NamedTuple):
    stage: str
    series: str
    step: int
    key: str
    value: float


def _read_rows(path: Path) -> list[_Row]:
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = list(csv.reader(text[: text.rfind("\n") + 1].split("\n")[:-1]))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise InputError(f"{path} does not begin with {','.join(COLUMNS)!r}; move it away")
    parsed = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            stage, series, step, key, value = row
            parsed.append(_Row(stage, series, int(step), key, float(value)))
        except ValueError as error:
            raise InputError(f"damaged metrics {path}: line {number}: {error}") from error
    return parsed


def read_metrics(path: Path) -> Metrics:
    """Read the rows of :class:`CsvTracker`, without a half-written last line.

    Args:
        path: The CSV file.

    Returns:
        ``metrics[stage][series][key]``, each with its steps and values as written.

    Raises:
        InputError: If the file is missing or a row is damaged.
    """
    if not path.is_file():
        raise InputError(f"no metrics in {path}; run the distillation first")
    metrics: Metrics = {}
    for row in _read_rows(path):
        curves = metrics.setdefault(row.stage, {}).setdefault(row.series, {})
        curve = curves.setdefault(row.key, Curve([], []))
        curve.steps.append(row.step)
        curve.values.append(row.value)
    return metrics


@contextmanager
def wandb_tracker(
    *, project: str, name: str, folder: Path, config: Mapping[str, Any]
) -> Iterator[WandbLogger]:
    """Open a Weights & Biases run, closed however the block ends.

    ``WANDB_MODE`` decides where it is set. Otherwise the run is online with an account, that is
    a ``WANDB_API_KEY`` or a login in the netrc file, and offline without. It waits longer than
    wandb does for its process to start, unless the environment says how long.

    Args:
        project: Project of the run.
        name: Name of the run.
        folder: Folder under which wandb keeps its files.
        config: Plain values shown as the configuration of the run.

    Yields:
        A Lightning logger.

    Raises:
        InputError: If the run cannot be opened.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    for variable, seconds in PATIENCE.items():
        os.environ.setdefault(variable, seconds)
    logger = WandbLogger(
        project=project,
        name=name,
        save_dir=folder,
        config=dict(config),
        mode=None if os.environ.get("WANDB_MODE") else wandb_mode(),
    )
    try:
        run, exit_code = logger.experiment, 1
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Weights & Biases cannot be started ({reason}); try again, or use logger=csv"
        ) from error
    try:
        yield logger
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def wandb_mode() -> str:
    """Return ``"online"`` if wandb finds a key in the environment or the netrc file.

    Raises:
        InputError: If the netrc file cannot be read.
    """
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return "offline"
    try:
        login = netrc.netrc(path).authenticators(WANDB_HOST)
    except (OSError, netrc.NetrcParseError) as error:
        raise InputError(f"{path} cannot be read ({error}); set WANDB_MODE=offline") from error
    return "online" if login else "offline"
