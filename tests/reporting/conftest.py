from collections.abc import Callable
from typing import Any

import pytest

from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from tests.protocols import SHORT_A

PROTOCOL = SHORT_A


@pytest.fixture
def protocol() -> Protocol:
    return PROTOCOL


@pytest.fixture
def make_result() -> Callable[..., EvaluationResult]:
    """A result of given accuracies for one seed, with any field changed."""

    def make(label: str, *accuracies: float, seed: int = 0, **changes: Any) -> EvaluationResult:
        students = tuple(
            StudentResult(seed, index, f"set{seed}", accuracy, 0.5, 1.0, 100, 2.5, 5066)
            for index, accuracy in enumerate(accuracies)
        )
        fields: dict[str, Any] = {
            "method": label.lower(),
            "label": label,
            "dataset": "digits",
            "ipc": 10,
            "num_images": 100,
            "protocol": PROTOCOL,
            "students": students,
            **changes,
        }
        return EvaluationResult(**fields)

    return make
