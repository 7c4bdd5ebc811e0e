"""What one student reached, in memory and as the small file that outlives a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from geodm_lightning.files import write_json
from geodm_lightning.types import InputError


@dataclass(frozen=True)
class StudentResult:
    """What one student reached at the end of its training.

    Attributes:
        seed: Seed of the run.
        index: Position of the student among those of its seed, from 0.
        set_digest: Digest of the images it was trained on.
        accuracy: Fraction of the test images classified correctly after the last epoch.
        loss: Mean cross-entropy on the test images, in nats.
        train_accuracy: Fraction of the training images, not augmented, classified correctly;
            of at most 10,000 evenly spaced ones.
        num_steps: Optimiser steps made.
        seconds: Wall-clock time of training and test; an even share of that of all students that
            were trained at once.
        num_parameters: Trainable parameters of the network.
        peak_memory: Most bytes allocated on the device, None without CUDA; by all students that
            were trained at once.
        calibration_error: Expected calibration error on the test images in 15 bins, a fraction;
            None in records older than it.
    """

    seed: int
    index: int
    set_digest: str
    accuracy: float
    loss: float
    train_accuracy: float
    num_steps: int
    seconds: float
    num_parameters: int
    peak_memory: int | None = None
    calibration_error: float | None = None

    def __post_init__(self) -> None:
        _check_whole(self, "seed", "index", "num_steps", "num_parameters")
        if self.peak_memory is not None and not isinstance(self.peak_memory, int):
            raise InputError(f"student peak_memory must be bytes or null, got {self.peak_memory!r}")
        if not isinstance(self.set_digest, str) or not self.set_digest:
            raise InputError(f"student set_digest must be a text, got {self.set_digest!r}")
        optional = () if self.calibration_error is None else ("calibration_error",)
        for name in ("accuracy", "train_accuracy", "loss", "seconds", *optional):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise InputError(f"student {name} must be a finite number from 0, got {value!r}")
        for name in ("accuracy", "train_accuracy", *optional):
            if getattr(self, name) > 1:
                raise InputError(f"student {name} is a fraction, got {getattr(self, name)}")

    @classmethod
    def from_dict(cls, values: Any) -> StudentResult:
        """Build a student's result from JSON values.

        Raises:
            InputError: If a field is missing, unknown or impossible.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"student fields do not fit: {error}") from error


@dataclass(frozen=True)
class Divergence:
    """A student whose training came to nothing: it is not tested, nor trained again.

    Attributes:
        seed: Seed of the run.
        index: Position of the student among those of its seed, from 0.
        set_digest: Digest of the images it was trained on.
        step: Optimiser step at which its loss was seen to be no finite number.
    """

    seed: int
    index: int
    set_digest: str
    step: int

    def __post_init__(self) -> None:
        _check_whole(self, "seed", "index", "step")


class DivergedError(InputError):
    """The loss of a student is not finite.

    Args:
        line: What readers are told.
        index: Position of the student.
        step: Optimiser step at which it was seen.
    """

    def __init__(self, line: str, *, index: int, step: int) -> None:
        super().__init__(line)
        self.index = index
        self.step = step


@dataclass(frozen=True)
class RecordKey:
    """What a record must be of, to be taken over instead of training again.

    Attributes:
        protocol_digest: Digest of the protocol.
        set_digest: Digest of the images.
        seed: Seed of the run.
        index: Position of the student.
        supervision_digest: Digest of what it learned from, with the labels of its teachers;
            empty for plain hard labels.
    """

    protocol_digest: str
    set_digest: str
    seed: int
    index: int
    supervision_digest: str = ""

    def path(self, folder: Path) -> Path:
        """Return where the record lies; what it is of decides its name."""
        digests = (self.protocol_digest, self.set_digest, self.supervision_digest)
        name = "-".join(digest[:12] for digest in digests if digest)
        return folder / f"student-{name}-seed{self.seed}-{self.index}.json"


Outcome: TypeAlias = StudentResult | Divergence


def write_record(
    folder: Path, student: Outcome, *, protocol_digest: str, supervision_digest: str = ""
) -> Path:
    """Write what became of a student into ``folder``, whole or not at all."""
    key = RecordKey(
        protocol_digest, student.set_digest, student.seed, student.index, supervision_digest
    )
    values = {
        "protocol_digest": protocol_digest,
        "supervision_digest": supervision_digest,
        "diverged" if isinstance(student, Divergence) else "student": asdict(student),
    }
    return write_json(key.path(folder), values)


def read_record(folder: Path, key: RecordKey) -> Outcome | None:
    """Read a student's record, None if that student has not been trained yet.

    Raises:
        InputError: If the record is damaged or tells of another student, protocol or set.
    """
    path = key.path(folder)
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        student: Outcome
        if "diverged" in values:
            student = Divergence(**values["diverged"])
        else:
            student = StudentResult.from_dict(values["student"])
        found = RecordKey(
            values["protocol_digest"],
            student.set_digest,
            student.seed,
            student.index,
            values.get("supervision_digest", ""),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise _damaged(path, f"cannot be read ({error!r})") from error
    except InputError as error:
        raise _damaged(path, str(error)) from error
    if found != key:
        raise _damaged(path, "tells of another student, protocol, set or supervision than its name")
    return student


def record_keys(
    num_students: int, protocol_digest: str, set_digest: str, seed: int, supervision_digest: str
) -> list[RecordKey]:
    """Return the keys of the records of all students of a seed."""
    return [
        RecordKey(protocol_digest, set_digest, seed, index, supervision_digest)
        for index in range(num_students)
    ]


def read_students(
    folder: Path, keys: Sequence[RecordKey], *, label: str
) -> tuple[StudentResult, ...]:
    """Read the records of all students, which several processes may have written.

    Args:
        folder: Where they are.
        keys: What they must be of.
        label: Name of the images, for readers.

    Raises:
        DivergedError: If the training of one came to nothing.
        InputError: If one is not there, or is damaged.
    """
    found = {key.index: read_record(folder, key) for key in keys}
    for key in keys:
        lost = found[key.index]
        if isinstance(lost, Divergence):
            raise DivergedError(
                f"the loss of student {lost.index} on {label} is not finite at step {lost.step}; "
                "lower evaluation.protocol.lr or look at the images of the set "
                f"({key.path(folder)} keeps this; delete it to train that one again)",
                index=lost.index,
                step=lost.step,
            )
    missing = [index for index, student in found.items() if student is None]
    if missing:
        raise InputError(
            f"students {missing} on {label} are not in {folder}; all processes must "
            "share this folder, and each must be run"
        )
    return tuple(student for student in found.values() if isinstance(student, StudentResult))


def _check_whole(outcome: Outcome, *names: str) -> None:
    for name in names:
        value = getattr(outcome, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"student {name} must be a whole number, got {value!r}")


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"damaged student record {path}: {reason}; delete it to train that one again")
