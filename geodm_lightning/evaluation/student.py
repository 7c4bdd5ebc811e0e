"""Networks that have seen nothing yet, trained and tested under a protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.audit.calibration import (
    NUM_BINS,
    confidence_sums,
    expected_calibration_error,
)
from geodm_lightning.evaluation.averaging import WeightAverage
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.record import DivergedError
from geodm_lightning.evaluation.supervision import (
    HARD,
    StudentBatch,
    Supervision,
    student_loss,
)
from geodm_lightning.evaluation.views import input_spec
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.classifier import Batch, Classifier, PlainBatch, label_loss
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.stack import NetworkStack
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec

LOG_EVERY = 50  # steps; each look at the loss waits for the device
AnyBatch: TypeAlias = Batch | StudentBatch


class Scores(NamedTuple):
    """How a student does after its training.

    Attributes:
        accuracy: Fraction of the test images classified correctly.
        loss: Mean cross-entropy on the test images, in nats.
        train_accuracy: Fraction of the training images classified correctly.
        calibration_error: Expected calibration error on the test images, in ``[0, 1]``.
    """

    accuracy: float
    loss: float
    train_accuracy: float
    calibration_error: float


class StudentModule(Classifier):
    """Students whose weights are drawn afresh from (seed, index), never copied or loaded.

    Several students are trained by the same steps of one program: their networks are stacked,
    the loss is the sum of theirs, and optimisers work element by element.

    Args:
        protocol: Network, optimiser and schedule.
        spec: Data set of the images.
        seed: Seed of the run.
        indices: Positions of the students among those of the seed.
        num_steps: Optimiser steps of the whole training, for the schedule.
        supervision: What they learn from views; plain batches are learned by their classes.
        student_loggers: Loggers of each student; none where empty.

    Attributes:
        scores: After a test: one entry per student.
    """

    network: Network | NetworkStack

    def __init__(
        self,
        protocol: Protocol,
        spec: DatasetSpec,
        *,
        seed: int,
        indices: Sequence[int],
        num_steps: int,
        supervision: Supervision = HARD,
        student_loggers: Sequence[Sequence[Logger]] = (),
    ) -> None:
        networks = fresh_networks(protocol, spec, seed=seed, indices=indices)
        super().__init__(
            networks[0] if len(networks) == 1 else NetworkStack(networks),
            optimizer=protocol.build_optimizer,
            scheduler=lambda optimizer: protocol.build_scheduler(optimizer, num_steps=num_steps),
        )
        self.indices = tuple(indices)
        self.num_parameters = sum(p.numel() for p in networks[0].parameters() if p.requires_grad)
        self.scores: list[Scores] = []
        self._supervision = supervision
        self._student_loggers = student_loggers or [()] * len(networks)
        self._ema_decay = protocol.ema_decay
        self._average: WeightAverage | None = None
        self._sums: list[Tensor] = []
        self._confidence: Tensor = torch.zeros(())

    def answers(self, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Map images ``(n, ch, h, w)`` of every student to its logits ``(n, K)``."""
        if isinstance(self.network, NetworkStack):
            return self.network(torch.stack(list(images))).unbind()
        return [self.network(own) for own in images]

    def on_train_start(self) -> None:
        """Begin the average of the weights where they are trained."""
        if self._ema_decay:
            self._average = WeightAverage(self.network, decay=self._ema_decay)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the weights of a step into their average."""
        if self._average is not None:
            self._average.update()

    def on_train_end(self) -> None:
        """Let the average take the place of the weights: it is what is tested."""
        if self._average is not None:
            self._average.copy_to_network()
            self._average = None

    def training_step(self, batch: Sequence[AnyBatch], batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return the sum of the students' losses, each on a batch of its own.

        Raises:
            DivergedError: If a loss that is looked at is not finite.
        """
        logits = self.answers([own[0] for own in batch])
        losses = torch.stack([self._loss(*pair) for pair in zip(logits, batch, strict=True)])
        if batch_idx % LOG_EVERY == 0:
            values = losses.tolist()
            self._require_finite(values, batch_idx)
            self.trainer.progress_bar_metrics.update({"loss": sum(values) / len(values)})
            self._log([{"student/loss": value} for value in values], step=batch_idx)
        return losses.sum()

    def on_test_start(self) -> None:
        """Forget the sums of an earlier test."""
        num_students = len(self.indices)
        self._sums = [torch.zeros(num_students, 3, device=self.device) for _ in range(2)]
        self._confidence = torch.zeros(
            num_students, 3, NUM_BINS, device=self.device, dtype=torch.float64
        )

    def test_step(self, batch: PlainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add what every student answers to one batch that all are shown."""
        num_students = len(self.indices)
        # As many images at once as one student would be shown.
        size = -(-len(batch[0]) // num_students)
        for images, labels in zip(*(part.split(size) for part in batch), strict=True):
            logits = torch.stack(list(self.answers([images] * num_students))).float()
            correct = (logits.argmax(-1) == labels).sum(-1)
            own = labels.expand(num_students, -1).flatten()
            loss = F.cross_entropy(logits.flatten(0, 1), own, reduction="none").view(
                num_students, -1
            )
            count = loss.new_full((num_students,), len(labels))
            self._sums[dataloader_idx] += torch.stack([correct, loss.sum(1), count], dim=1)
            if dataloader_idx == 0:
                self._confidence += confidence_sums(logits, labels)

    def on_test_epoch_end(self) -> None:
        """Turn sums into scores and log them.

        Raises:
            DivergedError: If the loss on the test images is not finite.
        """
        test, training = (sums.cpu() for sums in self._sums)
        self._require_finite((test[:, 1] / test[:, 2]).tolist(), self.trainer.global_step)
        self.scores = [
            Scores(
                accuracy=tested[0] / tested[2],
                loss=tested[1] / tested[2],
                train_accuracy=trained[0] / trained[2],
                calibration_error=expected_calibration_error(confidence),
            )
            for tested, trained, confidence in zip(
                test.tolist(), training.tolist(), self._confidence.cpu(), strict=True
            )
        ]
        values = [
            {
                "student/accuracy": score.accuracy,
                "student/test_loss": score.loss,
                "student/train_accuracy": score.train_accuracy,
            }
            for score in self.scores
        ]
        self._log(values, step=self.trainer.global_step)

    def _loss(self, logits: Tensor, batch: AnyBatch) -> Tensor:
        if isinstance(batch, StudentBatch):
            return student_loss(logits, batch, self._supervision)
        return label_loss(logits, batch)

    def _log(self, values: Sequence[dict[str, float]], *, step: int) -> None:
        for loggers, own in zip(self._student_loggers, values, strict=True):
            for logger in loggers:
                logger.log_metrics(own, step=step)

    def _require_finite(self, losses: Sequence[float], step: int) -> None:
        for index, loss in zip(self.indices, losses, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss of student {index} is {loss} at step {step}; "
                    "lower evaluation.protocol.lr or look at the images of the set",
                    index=index,
                    step=step,
                )


def fresh_networks(
    protocol: Protocol, spec: DatasetSpec, *, seed: int, indices: Sequence[int]
) -> list[Network]:
    """Build the untrained networks of some students, on the CPU."""
    spec = input_spec(protocol, spec)
    return [
        build_network(
            protocol.network,
            num_classes=spec.num_classes,
            channels=spec.channels,
            resolution=spec.resolution,
            generator=keyed_generator(seed, "student", index),
            **protocol.network_options,
        )
        for index in indices
    ]
