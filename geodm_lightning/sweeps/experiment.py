"""The experiment that a sweep varies: its overrides, and what they compose."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from geodm_lightning.sweeps.space import Point, Space, Value, name_of_point, overrides_of, quoted
from geodm_lightning.types import InputError

AS_IT_STANDS = "as_it_stands"  # name of the runs that no value of the sweep changes


class Experiment(NamedTuple):
    """An experiment of the command line.

    Attributes:
        context: What Hydra composes with.
        config: Configuration of the multirun.
        overrides: Overrides that all runs have, one for each key.
    """

    context: HydraContext
    config: DictConfig
    overrides: tuple[str, ...]

    def changed(self, overrides: Sequence[str]) -> list[str]:
        """Return all overrides of a run; the given ones win.

        Raises:
            InputError: If one of them has several values.
        """
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        texts = [*self.overrides, *overrides]
        merged: dict[str, str] = {}
        for text, override in zip(texts, parser.parse_overrides(texts), strict=True):
            if override.is_sweep_override():
                raise InputError(
                    f"{text} has several values; what a sweep varies belongs in its sweep file"
                )
            merged[override.get_key_element()] = text
        return list(merged.values())

    def composed(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a run, without Hydra's own part."""
        config = self.context.config_loader.load_sweep_config(self.config, self.changed(overrides))
        keys = [str(key) for key in config if key != "hydra"]
        return OmegaConf.masked_copy(config, keys)

    def check_axes(self, space: Space, where: Path) -> DictConfig:
        """Compose the configuration with a value of every axis.

        Args:
            space: What is varied.
            where: File that says so.

        Raises:
            InputError: Naming the first axis that the configuration does not have.
        """
        point = {a.key: a.low if a.choices is None else a.choices[0] for a in space.axes}
        try:
            return self.composed(overrides_of(point))
        except HydraException as error:
            for key, value in point.items():
                self._check_axis(key, value, where)
            raise InputError(f"the parameters of {where} do not go together; {error}") from error

    def _check_axis(self, key: str, value: Value, where: Path) -> None:
        try:
            self.composed(overrides_of({key: value}))
        except HydraException as error:
            groups = self.context.config_loader.list_groups("")
            known = [*keys_of(OmegaConf.to_container(self.composed([]))), *groups]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else str(error)
            raise InputError(
                f"parameter {key} of {where} does not fit this experiment; {hint}"
            ) from error

    def trial(self, point: Point, folder: Path) -> list[str]:
        """Return the overrides of a trial, whose run folder is known by its values."""
        return self.changed([*overrides_of(point), *placed(folder, name_of_point(point))])

    def repeat(self, seed: int, folder: Path) -> list[str]:
        """Return the overrides of the experiment as it stands, with another seed."""
        return self.changed([f"seed={seed}", *placed(folder, AS_IT_STANDS)])


def placed(folder: Path, name: str) -> list[str]:
    """Return the overrides that put a run in a folder."""
    where = quoted(str(folder))
    return [f"run_dir={where}", f"name={quoted(name)}", f"hydra.sweep.dir={where}"]


def keys_of(values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of nested mappings, with dots."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield f"{prefix}{key}"
            yield from keys_of(value, f"{prefix}{key}.")
