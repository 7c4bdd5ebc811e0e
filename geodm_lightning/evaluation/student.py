"""A network that has seen nothing yet, trained and tested under a protocol."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.evaluation.averaging import WeightAverage
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import (
    HARD,
    StudentBatch,
    Supervision,
    student_loss,
)
from geodm_lightning.evaluation.views import input_spec
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.classifier import (
    Batch,
    Classifier,
    PlainBatch,
    classification_loss,
)
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, InputError

LOG_EVERY = 50  # steps; each look at the loss waits for the device


class Score(NamedTuple):
    """How a student does on one group of images.

    Attributes:
        accuracy: Fraction classified correctly.
        loss: Mean cross-entropy, in nats.
    """

    accuracy: float
    loss: float


class StudentModule(Classifier):
    """A classifier whose weights are drawn afresh from (seed, index), never copied or loaded.

    Args:
        protocol: Network, optimiser and schedule.
        spec: Data set of the images.
        seed: Seed of the run.
        index: Position of the student among those of the seed.
        num_steps: Optimiser steps of the whole training, for the schedule.
        supervision: What it learns from views; plain batches are learned by their classes.

    Attributes:
        scores: After a test: the test images, then the training images.
    """

    def __init__(
        self,
        protocol: Protocol,
        spec: DatasetSpec,
        *,
        seed: int,
        index: int,
        num_steps: int,
        supervision: Supervision = HARD,
    ) -> None:
        spec = input_spec(protocol, spec)
        network = build_network(
            protocol.network,
            num_classes=spec.num_classes,
            channels=spec.channels,
            resolution=spec.resolution,
            generator=keyed_generator(seed, "student", index),
            **protocol.network_options,
        )
        super().__init__(
            network,
            optimizer=protocol.build_optimizer,
            scheduler=lambda optimizer: protocol.build_scheduler(optimizer, num_steps=num_steps),
        )
        self.index = index
        self._supervision = supervision
        self._ema_decay = protocol.ema_decay
        self._average: WeightAverage | None = None
        self.scores: list[Score] = []
        self._sums: list[Tensor] = []

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the network."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)

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

    def training_step(self, batch: Batch | StudentBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; log it now and then.

        Raises:
            InputError: If a loss that is looked at is not finite.
        """
        if isinstance(batch, StudentBatch):
            loss = student_loss(self.network(batch.images), batch, self._supervision)
        else:
            loss = classification_loss(self.network, batch)
        if batch_idx % LOG_EVERY == 0:
            value = loss.item()
            self._require_finite(value, batch_idx)
            self.trainer.progress_bar_metrics.update({"loss": value})
            for logger in self.loggers:
                logger.log_metrics({"student/loss": value}, step=batch_idx)
        return loss

    def on_test_start(self) -> None:
        """Forget the sums of an earlier test."""
        self._sums = [torch.zeros(3, device=self.device) for _ in ("test", "training")]

    def test_step(self, batch: PlainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the correct answers, losses and images of one batch."""
        images, labels = batch
        logits = self.network(images).float()
        correct = (logits.argmax(dim=1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        self._sums[dataloader_idx] += torch.stack([correct, loss, loss.new_tensor(len(labels))])

    def on_test_epoch_end(self) -> None:
        """Turn sums into scores and log them.

        Raises:
            InputError: If the loss on the test images is not finite.
        """
        sums = [(correct, loss, count) for correct, loss, count in map(Tensor.tolist, self._sums)]
        self.scores = [Score(correct / count, loss / count) for correct, loss, count in sums]
        test, training = self.scores
        self._require_finite(test.loss, self.trainer.global_step)
        values = {
            "student/accuracy": test.accuracy,
            "student/test_loss": test.loss,
            "student/train_accuracy": training.accuracy,
        }
        for logger in self.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def _require_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise InputError(
                f"the loss of student {self.index} is {loss} at step {step}; "
                "lower evaluation.protocol.lr or look at the images of the set"
            )
