from collections.abc import Callable
from typing import Any

import pytest

from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult

PROTOCOL = Protocol(
    name="A",
    epochs=25,
    published_epochs=1000,
    batch_size=256,
    optimizer="sgd",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(0.5,),
    gamma=0.1,
    augmentation="color_crop",
    augmentation_mode="one",
    network="convnet",
    num_students=3,
    whole_steps=500,
)


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
