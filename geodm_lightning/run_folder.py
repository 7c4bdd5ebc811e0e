"""The folder of one run: where each stage reads and writes, and what it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from geodm_lightning.files import write_json, write_text
from geodm_lightning.types import InputError

# Settings that may change between two starts of one run: they do not change its result.
FREE = (
    "stages",
    "estimate",
    "gates",
    "baselines",
    "variants",  # a row that was made before is compared with the settings in its manifest
    "supervision",  # students are known by what they learned from
    "num_seeds",
    "run_dir",
    "cache_dir",
    "logger",
    "data.root",
    "data.download",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.threads",
    "trainer.compile",
    "trainer.graphs",
    "trainer.channels_last",
    "generator.batch_size",
    "generator.checkpointing",
    "teachers.batch_size",
    "teachers.strict",
    "teachers.labels",  # students are known by what they learned from
    "distiller.classes_per_step",
    "distiller.checkpoint_every",
    "audit",  # a file of its own tells what it was made of
    "scores",
    "evaluation.num_students",
    "evaluation.together",
    "schedule.max_students",
)


class RunFolder(NamedTuple):
    """Paths of a run, ``RUN_DIR/NAME/SEED``.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device and revision."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """Everything logged, in long form."""
        return self.path / "metrics.csv"

    @property
    def results(self) -> Path:
        """Accuracies of every student of every method."""
        return self.path / "results.json"

    @property
    def figures(self) -> Path:
        """Pictures of the report."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The page that joins everything."""
        return self.path / "report.html"

    def distilled(self, method: str, *, is_main: bool) -> Path:
        """Folder of a distilled set: the method's own, or that of a baseline."""
        return self.path / "distilled" if is_main else self.path / "baselines" / method

    def checkpoint(self, method: str, *, is_main: bool) -> Path:
        """Checkpoint of a distillation under way."""
        name = "last.ckpt" if is_main else f"{method}.ckpt"
        return self.path / "checkpoints" / name

    def latents(self, method: str) -> Path:
        """Folder of the latents of a set that is being sampled."""
        return self.path / "latents" / method

    @property
    def agreement(self) -> Path:
        """How far teachers agree with the labels of real images and of the sets."""
        return self.path / "labels" / "agreement.json"

    def labels(self, method: str, teachers: str) -> Path:
        """Folder of what teachers say of the views of a set."""
        return self.path / "labels" / method / teachers

    def students(self, method: str) -> Path:
        """Folder of finished students of one method."""
        return self.path / "students" / method

    def open(self, settings: dict[str, Any], environment: dict[str, Any]) -> None:
        """Make the folder, or check that it was made for the same settings.

        Args:
            settings: Resolved configuration.
            environment: Result of :func:`geodm_lightning.provenance.provenance`.

        Raises:
            InputError: If the folder belongs to another configuration or cannot be written.
        """
        self.check_same(settings)
        write_text(self.config, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        if not self.environment.is_file():
            write_json(self.environment, environment)

    def settings(self) -> dict[str, Any]:
        """Return the settings the folder was made for; none where it was not made.

        Raises:
            InputError: If ``config.yaml`` is damaged.
        """
        if not self.config.is_file():
            return {}
        try:
            return yaml.safe_load(self.config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(
                f"damaged {self.config}: not YAML; delete the run folder or choose name=NAME"
            ) from error

    def check_same(self, settings: dict[str, Any]) -> None:
        """Compare ``settings`` with those the folder was made for, if it was made.

        Raises:
            InputError: Naming the keys that differ, or a damaged ``config.yaml``.
        """
        if not self.config.is_file():
            return
        differing = differences(self.settings(), settings)
        if differing:
            raise InputError(
                f"run folder {self.path} belongs to another configuration: "
                f"{'; '.join(differing)}; choose a new one, for example "
                f"name={settings['name']}_{_unused(self.path.parent)}"
            )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the settings that differ and may not, each with both values.

    Args:
        old: Settings before.
        new: Settings now.
        prefix: Key under which both lie, to name theirs in full.
    """
    dot = f"{prefix}." if prefix else ""
    before, now = dict(_flatten(old, dot)), dict(_flatten(new, dot))
    return [
        f"{key} ({before.get(key, 'unset')} there, {now.get(key, 'unset')} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            yield from _flatten(item, f"{name}.")
        else:
            yield name, item


def _unused(folder: Path) -> int:
    number = 2
    while folder.with_name(f"{folder.name}_{number}").exists():
        number += 1
    return number
