"""The accuracies of all students of one set, with all that is needed to trust them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.files import write_json
from geodm_lightning.types import InputError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EvaluationResult:
    """Students trained on one method's sets, of one seed or merged from several.

    The number to report is :attr:`mean`: the accuracy after the last epoch. No epoch is ever
    chosen by its test accuracy.

    Attributes:
        method: Identifier of the method, such as ``"geodm"``.
        label: Name shown to readers, such as ``"GeoDM"``.
        dataset: Name of the data set.
        ipc: Stored images per class, None for all real images.
        num_images: Training images a student sees per epoch, mosaics decoded.
        protocol: How the students were trained.
        students: One result per student, sorted by seed and index.
        schedule_share: Share of the method's published iterations behind the images, None for
            images that no iterations made.
        costs: What making the set of each seed took: ``seconds``, ``seconds_per_iteration``,
            ``peak_memory_bytes`` and both by component, as the distiller measured them; empty
            where nothing was learned.
        geometries: Curvatures and weights of the factors that the set of each seed ended with,
            as :meth:`WeightedFactors.state` names them; empty where nothing was learned.
        provenance: Plain values passed in by the caller: versions, device, git revision …
        supervision: What the students learned from.
        teachers: Names of the teachers they learned from, empty for hard labels.
        label_identities: Identity of the teachers' labels of each seed, likewise.
    """

    method: str
    label: str
    dataset: str
    ipc: int | None
    num_images: int
    protocol: Protocol
    students: tuple[StudentResult, ...]
    schedule_share: float | None = None
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    geometries: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    supervision: Supervision = HARD
    teachers: tuple[str, ...] = ()
    label_identities: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "teachers", tuple(self.teachers))
        students = tuple(sorted(self.students, key=lambda student: (student.seed, student.index)))
        object.__setattr__(self, "students", students)
        keys = [(student.seed, student.index) for student in students]
        if not keys:
            raise InputError(f"the result of {self.label} holds no student; evaluate again")
        if len(set(keys)) < len(keys):
            raise InputError(f"the result of {self.label} holds a student twice: {keys}")

    @property
    def key(self) -> str:
        """What no other result of a table shares: its method, and how students were taught."""
        taught = "" if self.supervision == HARD else f"/{self.supervision.name}"
        return f"{self.method}{taught}"

    @property
    def full_label(self) -> str:
        """The label, and what students learned from where that is not hard labels alone."""
        taught = "" if self.supervision == HARD else f" · {self.supervision.label}"
        return f"{self.label}{taught}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds merged here, rising."""
        return tuple(sorted({student.seed for student in self.students}))

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Last-epoch accuracy of every student, as a fraction."""
        return tuple(student.accuracy for student in self.students)

    @property
    def mean(self) -> float:
        """Mean last-epoch accuracy of all students."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (``ddof = 1``) over all students, None for one."""
        return _sample_std(self.accuracies)

    @property
    def seed_means(self) -> dict[int, float]:
        """Mean accuracy of each seed's students."""
        return {
            seed: statistics.fmean(s.accuracy for s in self.students if s.seed == seed)
            for seed in self.seeds
        }

    @property
    def std_of_seeds(self) -> float | None:
        """Sample standard deviation of :attr:`seed_means`, None for one seed."""
        return _sample_std(list(self.seed_means.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the numbers derived from them as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "protocol": self.protocol.to_dict(),
            "protocol_digest": self.protocol.digest(),
            "protocol_fraction": self.protocol.fraction,
            "students": [asdict(student) for student in self.students],
            "supervision": self.supervision.to_dict(),
            "teachers": list(self.teachers),
            **{name: getattr(self, name) for name in _DERIVED},
        }

    @classmethod
    def from_dict(cls, values: Any) -> EvaluationResult:
        """Build a result from the values of :meth:`to_dict`, and compute them again to compare.

        Raises:
            InputError: If a field is missing, unknown or impossible, or a derived number is not
                that of the students.
        """
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise InputError(f"not an evaluation result of format {FORMAT_VERSION}")
        values = {**_UNTOLD, **values}
        missing = {f.name for f in fields(cls)} - set(values)
        if missing:
            raise InputError(f"an evaluation result lacks {', '.join(sorted(missing))}")
        own = {f.name: values[f.name] for f in fields(cls)}
        if not isinstance(own["students"], list) or not isinstance(own["protocol"], dict):
            raise InputError("an evaluation result needs a list of students and a protocol")
        own["protocol"] = Protocol.from_dict(own["protocol"])
        own["supervision"] = Supervision.from_dict(own["supervision"])
        own["students"] = tuple(StudentResult.from_dict(student) for student in own["students"])
        result = cls(**own)
        for name, expected in {
            "protocol_digest": result.protocol.digest(),
            **{name: getattr(result, name) for name in _DERIVED},
        }.items():
            if values.get(name) != expected:
                raise InputError(
                    f"{name} is {values.get(name)!r} where its own students give {expected!r}"
                )
        return result


_DERIVED = ("mean", "std", "std_of_seeds")
_UNTOLD: dict[str, Any] = {  # what older results do not tell
    "costs": {},
    "geometries": {},
    "supervision": HARD.to_dict(),
    "teachers": [],
    "label_identities": {},
}


def _sample_std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def save_results(path: Path, results: Sequence[EvaluationResult]) -> Path:
    """Write the results of a run to one JSON file, whole or not at all."""
    return write_json(path, [result.to_dict() for result in results])


def load_results(path: Path) -> list[EvaluationResult]:
    """Read and check the file of :func:`save_results`.

    Raises:
        InputError: If the file is missing, damaged or contradicts itself.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, list):
            raise InputError("not a list of results")
        return [EvaluationResult.from_dict(value) for value in values]
    except FileNotFoundError as error:
        raise InputError(f"no results in {path}; run the evaluation first") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, InputError) as error:
        raise InputError(f"damaged results {path}: {error}; delete it to evaluate again") from error


def merge_results(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Join the results of several seeds of one method.

    Args:
        results: Results that differ in their seeds and provenance only.

    Returns:
        One result with the students of all seeds; its provenance maps each first seed to the
        provenance of that part.

    Raises:
        InputError: If there is nothing to merge, a student appears twice, or the results differ
            in method, data set, images per class, protocol, schedule, supervision or teachers.
    """
    if not results:
        raise InputError("no results to merge; name at least one evaluated run")
    first = results[0]
    for result in results[1:]:
        _require_alike(first, result)
    provenance: Mapping[str, Any] = {str(part.seeds[0]): part.provenance for part in results}
    return replace(
        first,
        students=tuple(student for result in results for student in result.students),
        costs={seed: cost for result in results for seed, cost in result.costs.items()},
        geometries={seed: state for r in results for seed, state in r.geometries.items()},
        label_identities={s: labels for r in results for s, labels in r.label_identities.items()},
        provenance=first.provenance if len(results) == 1 else dict(provenance),
    )


def one_per_set(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Return the first result of each method: its set was made once, however it was taught."""
    return list({result.method: result for result in reversed(results)}.values())[::-1]


def _require_alike(first: EvaluationResult, other: EvaluationResult) -> None:
    shared = ("method", "label", "dataset", "ipc", "num_images", "schedule_share", "teachers")
    for name in (*shared, "supervision"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"cannot merge results of {name} {ours!r} and {theirs!r}")
    if first.protocol.digest() != other.protocol.digest():
        raise InputError(
            f"cannot merge {first.label} under protocol {first.protocol.digest()} with "
            f"{other.protocol.digest()}; evaluate both under one protocol"
        )
