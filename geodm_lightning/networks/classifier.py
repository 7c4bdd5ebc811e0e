"""Training any network on labelled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import lightning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from geodm_lightning.networks.network import Network
from geodm_lightning.networks.stack import NetworkStack

PlainBatch: TypeAlias = tuple[Tensor, Tensor]  # images (n, ch, h, w), labels (n,)
MixedBatch: TypeAlias = tuple[Tensor, Tensor, Tensor, float]  # images, two labels, share of first
Batch: TypeAlias = PlainBatch | MixedBatch
OptimizerFactory: TypeAlias = Callable[[Iterator[nn.Parameter]], Optimizer]
SchedulerFactory: TypeAlias = Callable[[Optimizer], LRScheduler]
Augment: TypeAlias = Callable[[Tensor, Tensor, int], Batch]  # (images, labels, step)


def classification_loss(network: Network | NetworkStack, batch: Batch) -> Tensor:
    """Cross-entropy of a batch, mixed between two labels where the batch carries two.

    Args:
        network: Maps images to logits.
        batch: ``(images, labels)``, or ``(images, labels_a, labels_b, share)`` whose loss is
            ``share·CE(labels_a) + (1 − share)·CE(labels_b)``.

    Returns:
        Scalar mean over the batch.
    """
    return label_loss(network(batch[0]), batch)


def label_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of answers ``(n, K)`` to a batch, as :func:`classification_loss` says."""
    if len(batch) == 2:
        return F.cross_entropy(logits, batch[1])
    _, labels, other_labels, share = batch
    loss = share * F.cross_entropy(logits, labels)
    return loss + (1 - share) * F.cross_entropy(logits, other_labels)


class Classifier(lightning.LightningModule):
    """Trains and tests a network on batches of normalised images.

    Args:
        network: The network; it is trained in place.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes a schedule from the optimiser, stepped after every training step.
        augment: Called as ``augment(images, labels, step)`` on every training batch; returns
            ``(images, labels)`` or a CutMix batch ``(images, labels_a, labels_b, share)``.
        log_loss: Whether to log ``loss`` every step; off because it costs as much as a small step.

    Note:
        :meth:`test_step` logs ``accuracy``, a fraction in [0, 1].
    """

    def __init__(
        self,
        network: Network | NetworkStack,
        *,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        augment: Augment | None = None,
        log_loss: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.accuracy = MulticlassAccuracy(network.num_classes, average="micro")
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._augment = augment
        self._log_loss = log_loss

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of one augmented batch."""
        if self._augment is not None:
            batch = self._augment(batch[0], batch[1], self.global_step)
        loss = classification_loss(self.network, batch)
        if self._log_loss:
            self.log("loss", loss, batch_size=len(batch[0]))
        return loss

    def test_step(self, batch: PlainBatch, batch_idx: int) -> None:
        """Add one batch to the accuracy."""
        images, labels = batch
        self.accuracy(self.network(images), labels)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True, batch_size=len(images))

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its per-step schedule."""
        optimizer = self._optimizer(self.network.parameters())
        if self._scheduler is None:
            return optimizer
        schedule = {"scheduler": self._scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
