from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.evaluation.candidate import Candidate, candidate_from_set
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult
from tests.protocols import SHORT_A

TINY_A = replace(
    SHORT_A,
    epochs=4,
    batch_size=32,
    augmentation="color_crop_cutout_flip_scale_rotate",
    network_options={"width": 4, "depth": 3},
    num_students=2,
    whole_steps=6,
)
TINY_C = Protocol(
    name="C",
    epochs=5,
    published_epochs=2000,
    batch_size=40,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.01,
    milestones=(0.2, 0.4, 0.6, 0.8),
    gamma=0.5,
    augmentation="color_crop_flip_scale_rotate",
    augmentation_mode="compound",
    cutmix_probability=0.5,
    network="convnet",
    network_options={"width": 4, "depth": 3},
    num_students=2,
    whole_steps=6,
)
TINY_VIEWS = replace(
    TINY_C, name="E", augmentation="none", cutmix_probability=0.0, views={}, milestones=(),
    schedule="cosine", smoothing=2.0, ema_decay=0.9, decay_vectors=False,
)  # fmt: skip


@pytest.fixture
def tiny_views() -> Protocol:
    return TINY_VIEWS


@pytest.fixture
def tiny_a() -> Protocol:
    return TINY_A


@pytest.fixture
def tiny_c() -> Protocol:
    return TINY_C


@pytest.fixture(params=[TINY_A, TINY_C], ids=["A", "C"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return request.param


@pytest.fixture(scope="session")
def digits() -> RealDataModule:
    data = RealDataModule("digits")
    data.setup()
    return data


@pytest.fixture
def make_set(digits: RealDataModule) -> Callable[..., DistilledSet]:
    """A set of real digits, ten of each, with any manifest entry changed."""

    def make(**changes: Any) -> DistilledSet:
        indices = digits.train.draw(10, generator=torch.Generator().manual_seed(0))
        manifest = {
            "method": "random",
            "label": "Random",
            "ipc": 10,
            "factor": 1,
            "dataset": digits.spec._asdict(),
            **changes,
        }
        images = digits.train.gather(indices.flatten())
        return DistilledSet(images, class_major_labels(10, 10), manifest)

    return make


@pytest.fixture
def candidate(digits: RealDataModule, make_set: Callable[..., DistilledSet]) -> Candidate:
    return candidate_from_set(make_set(), spec=digits.spec, device=torch.device("cpu"))


@pytest.fixture
def make_result() -> Callable[..., EvaluationResult]:
    """A result of given accuracies for one seed, with any field changed."""

    def make(*accuracies: float, seed: int = 0, **changes: Any) -> EvaluationResult:
        students = tuple(
            StudentResult(seed, index, f"set{seed}", accuracy, 0.5, 1.0, 100, 2.5, 5066)
            for index, accuracy in enumerate(accuracies)
        )
        fields: dict[str, Any] = {
            "method": "geodm",
            "label": "GeoDM",
            "dataset": "digits",
            "ipc": 10,
            "num_images": 100,
            "protocol": TINY_A,
            "students": students,
            "schedule_share": 0.5,
            "provenance": {"host": f"machine {seed}"},
            **changes,
        }
        return EvaluationResult(**fields)

    return make
