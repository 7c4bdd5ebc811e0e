"""What the stages of one run share."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning.pytorch.loggers.logger import Logger
from rich.console import Console

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.methods import Method, methods_of
from geodm_lightning.run_folder import RunFolder
from geodm_lightning.site import Site

CONSOLE = Console()


class Run(NamedTuple):
    """Everything the stages of one seed share.

    Attributes:
        settings: Resolved configuration as plain containers, ``seed`` being this run's.
        folder: Where the run reads and writes.
        data: Real images.
        site: Device and process of this run.
        loggers: Loggers beside ``metrics.csv``.
    """

    settings: dict[str, Any]
    folder: RunFolder
    data: RealDataModule
    site: Site
    loggers: tuple[Logger, ...] = ()

    @property
    def seed(self) -> int:
        """Seed of this run."""
        return int(self.settings["seed"])

    @property
    def methods(self) -> list[Method]:
        """Rows of the table."""
        return methods_of(self.settings)
