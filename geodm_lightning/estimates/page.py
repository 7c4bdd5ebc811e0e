"""An estimate as readers see it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from geodm_lightning import processes
from geodm_lightning.estimates.estimate import Estimate, estimate
from geodm_lightning.files import write_json
from geodm_lightning.memory import gigabytes
from geodm_lightning.stages.run import CONSOLE
from geodm_lightning.types import InputError


def print_estimate(config: DictConfig) -> Estimate:
    """Print an estimate; write it where ``estimate`` names a file.

    Raises:
        InputError: If the run would be refused, or ``estimate`` is no file ending in ``.json``.
    """
    wanted = config.estimate
    check_wanted(wanted)
    if int(os.environ.get("RANK", "0")) > 0:
        processes.die_with_parent()
        raise SystemExit(0)
    found = estimate(config)
    CONSOLE.print(table_of(found))
    for line in lines_of(found):
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
    if not isinstance(wanted, bool):
        write_json(Path(str(wanted)), found.to_dict())
    return found


def check_wanted(wanted: Any) -> None:
    """Check what ``estimate`` may be.

    Raises:
        InputError: If it neither says yes or no nor names a file ending in ``.json``.
    """
    if not isinstance(wanted, bool) and Path(str(wanted)).suffix != ".json":
        raise InputError(f"estimate must be true, false or a file PATH.json, got {wanted!r}")


def table_of(found: Estimate) -> Table:
    """Return the parts of a run as a table that rich prints."""
    table = Table(
        title=Text(found.name), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("stage")
    table.add_column("what", overflow="fold")
    for heading in ("steps", "done", "s/step", "time", "memory", "disk"):
        table.add_column(heading, justify="right", no_wrap=True)
    for work in found.works:
        table.add_row(
            work.stage,
            Text(work.what),
            str(work.steps),
            str(work.done),
            f"{work.seconds_per_step:.3g}",
            clock(work.seconds),
            gigabytes(work.memory) if work.memory else "",
            gigabytes(work.disk) if work.disk else "",
        )
    return table


def lines_of(found: Estimate) -> list[str]:
    """Return the sums and what to change, a line each."""
    noun = "process" if found.processes == 1 else "processes"
    lines = [
        f"{clock(found.seconds)} on {found.processes} {noun}, "
        f"{found.seconds * found.processes / 3600:.2g} device hours; memory of a process "
        f"{gigabytes(found.memory)}, {gigabytes(found.available_memory)} are free; disk "
        f"{gigabytes(found.disk)}, {gigabytes(found.free_disk)} are free"
    ]
    return [*lines, *(f"does not fit: {line}" for line in found.advice)]


def clock(seconds: float) -> str:
    """Return a time for readers, in the unit that suits it.

    Example:
        >>> clock(42), clock(90), clock(5400), clock(400_000)
        ('42 s', '1.5 min', '1.50 h', '111.11 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"
