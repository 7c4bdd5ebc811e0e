"""The accuracies of all students of one set, with all that is needed to trust them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from geodm_lightning.evaluation.interval import LEVEL, Interval, t_interval
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
        architecture: Name of the students' architecture, empty for the protocol's own.
        architecture_label: How readers call it, likewise.
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
    architecture: str = ""
    architecture_label: str = ""

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
        """``METHOD[/SUPERVISION][@ARCHITECTURE]``: what no other result of a table shares."""
        taught = "" if self.supervision == HARD else f"/{self.supervision.name}"
        return f"{self.method}{taught}" + (f"@{self.architecture}" if self.architecture else "")

    @property
    def full_label(self) -> str:
        """The label, what students learned from where not hard labels alone, what they are."""
        taught = "" if self.supervision == HARD else f" · {self.supervision.label}"
        return f"{self.label}{taught}" + (f" · {self.student_label}" if self.architecture else "")

    @property
    def student_label(self) -> str:
        """How readers call the students' architecture; the network's name for the own one."""
        return self.architecture_label or self.architecture or self.protocol.network

    @property
    def tested_on(self) -> str:
        """``"test"`` images, or those of training held out for ``"validation"``."""
        return self._told("tested_on", "test")

    @property
    def precision(self) -> str:
        """What networks were computed in; ``"32-true"`` where an older result does not tell."""
        return self._told("precision", "32-true")

    def _told(self, key: str, default: str) -> str:
        """Look something up in the provenance, of several seeds in that of any."""
        parts = [self.provenance, *(v for v in self.provenance.values() if isinstance(v, dict))]
        return next((str(part[key]) for part in parts if key in part), default)

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

    @property
    def num_sets(self) -> int:
        """Different sets that the students were trained on."""
        return len({student.set_digest for student in self.students})

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Return Student's interval of :attr:`mean`, None where one value is all there is.

        Students of one set share its images, so where there are several sets the unit is the
        seed, whose sets differ. Of a single set the unit is the student, and the interval tells
        nothing of what another set of that method would reach. Ends outside [0, 1] are cut off.
        """
        units = self.seed_means.values() if self.num_sets > 1 else self.accuracies
        interval = t_interval(list(units), level=level)
        return None if interval is None else Interval(max(0.0, interval[0]), min(1.0, interval[1]))

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
    "architecture": "",
    "architecture_label": "",
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


def one_per_set(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Return the first result of each method: its set was made once, however it was taught."""
    return list({result.method: result for result in reversed(results)}.values())[::-1]
