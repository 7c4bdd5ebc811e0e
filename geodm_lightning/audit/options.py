"""What the stages ``score`` and ``audit`` are told, checked when it is said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geodm_lightning.audit.robustness import check_weight
from geodm_lightning.types import InputError

ROWS = ("own", "all")
FEATURES = ("trained", "random")


@dataclass(frozen=True)
class ScoreOptions:
    """How robust scores are reached; see ``configs/scores/robust.yaml``.

    Attributes:
        name: ``"robust"``, or ``"none"`` where the stage is not asked for by this group.
        rows: ``"own"`` for the run's own set or those imported, ``"all"`` for every set.
        weight: Weight of the gain over random images in the label-robust score.
        augmentation_weight: Weight of students with augmentation in the other score.
        rates: Learning rates to choose among, times the protocol's.
        validation: Share of the training images on which the rate is chosen.
        students_per_rate: Students that choose it.

    Raises:
        InputError: If a value cannot be used.
    """

    name: str
    rows: str
    weight: float
    augmentation_weight: float
    rates: tuple[float, ...]
    validation: float
    students_per_rate: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(self.rates))
        _check_choice("scores.rows", self.rows, ROWS)
        for name in ("weight", "augmentation_weight"):
            check_weight(name, getattr(self, name))
        bad = [rate for rate in self.rates if not _is_number(rate) or rate <= 0]
        if bad or not self.rates or len(set(self.rates)) < len(self.rates):
            raise InputError(
                f"scores.rates must be different positive numbers, times the protocol's rate, got "
                f"{list(self.rates)}"
            )
        if not _is_number(self.validation) or not 0 < self.validation < 1:
            raise InputError(
                f"scores.validation must lie between 0 and 1, got {self.validation!r}; the rate is "
                "never chosen on test images"
            )
        _check_count("scores.students_per_rate", self.students_per_rate)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ScoreOptions:
        """Build the options from the settings of a run.

        Raises:
            InputError: If a field is missing, unknown or cannot be used.
        """
        return _built(cls, "scores", settings)


@dataclass(frozen=True)
class AuditOptions:
    """How a set is looked at; see ``configs/audit/default.yaml``.

    Attributes:
        features: ``"trained"`` for a network trained on the real images, ``"random"``.
        max_steps: Cap on its training, None for none.
        neighbours: ``k`` of coverage and its kin.
        real_per_class: Real images per class at most, None for all; a copy of another one is
            then not found.
        references: Random real sets of equal size beside a set.
        max_images: Images of a set at most whose nearest real images are looked for.
        shown: Nearest real images kept.
        copy: Share of the usual distance among real images below which an image is a copy.

    Raises:
        InputError: If a value cannot be used.
    """

    features: str
    max_steps: int | None
    neighbours: int
    real_per_class: int | None
    references: int
    max_images: int
    shown: int
    copy: float

    def __post_init__(self) -> None:
        _check_choice("audit.features", self.features, FEATURES)
        least = {"neighbours": 1, "references": 2, "max_images": 1, "shown": 2}
        for name, smallest in least.items():
            _check_count(f"audit.{name}", getattr(self, name), least=smallest)
        if self.max_steps is not None:
            _check_count("audit.max_steps", self.max_steps)
        if self.real_per_class is not None:
            _check_count("audit.real_per_class", self.real_per_class, least=3)
        if not _is_number(self.copy) or not 0 < self.copy < 1:
            raise InputError(f"audit.copy must lie between 0 and 1, got {self.copy!r}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AuditOptions:
        """Build the options from the settings of a run.

        Raises:
            InputError: If a field is missing, unknown or cannot be used.
        """
        return _built(cls, "audit", settings)


def check_options(settings: Mapping[str, Any]) -> None:
    """Check what both stages are told.

    Raises:
        InputError: Naming the first value that cannot be used.
    """
    ScoreOptions.from_settings(settings)
    AuditOptions.from_settings(settings)


def _built(kind: Any, group: str, settings: Mapping[str, Any]) -> Any:
    values, known = dict(settings[group]), [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise InputError(f"unknown key '{group}.{name}'; choose among {', '.join(known)}")
    for name in known:
        if name not in values:
            raise InputError(f"{group}.{name} is missing; see configs/{group}")
    return kind(**values)


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"unknown {key} {value!r}; choose one of {', '.join(choices)}")


def _check_count(key: str, value: Any, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{key} must be a whole number of at least {least}, got {value!r}")


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)
