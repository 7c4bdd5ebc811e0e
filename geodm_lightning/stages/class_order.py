"""Whether the images of a set show the classes their labels name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from geodm_lightning.data.table import ImageTable
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.labels.agreement import can_tell, measure_agreement
from geodm_lightning.randomness import keyed_generator

PER_CLASS = 100  # real images a mean is taken of
MOST_ASKED = 5000  # images of the set
SIDE = 16  # pixels per side of what is compared


class NearestMean:
    """Answers the class whose real images are nearest in the mean, pixel by pixel.

    It needs no training, is far from good and better than chance: enough to see that classes
    were exchanged. It takes the place of a pool of teachers in :func:`measure_agreement`.

    Args:
        table: Real training images.
    """

    def __init__(self, table: ImageTable) -> None:
        self.teachers = [SimpleNamespace(name="the nearest class mean of real images")]
        chosen = table.draw(PER_CLASS, generator=keyed_generator(0, "class means"))
        self.means = torch.stack([_small(table.gather(row)).mean(0) for row in chosen])  # (C, d)

    def answers(self, images: Tensor) -> Tensor:
        """Return logits ``(1, n, C)`` of unit-range images ``(n, ch, h, w)``."""
        parts = [torch.cdist(_small(part), self.means) for part in images.split(500)]
        return -torch.cat(parts)[None]


def _small(images: Tensor) -> Tensor:
    """Shrink images ``(n, ch, h, w)`` and take out brightness and contrast: ``(n, d)``."""
    small = adaptive_avg_pool2d(images.float(), min(SIDE, images.shape[-1])).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)


def order_problem(distilled: DistilledSet, table: ImageTable) -> str | None:
    """Return why the labels of a set are likely in another order than those of real images.

    Nearest means answer them; only an order that explains the answers far better than the labels
    do is a problem, no weak answers. Few images per class cannot tell.

    Args:
        distilled: A set, mosaics cut.
        table: Real training images.
    """
    num_classes = table.spec.num_classes
    every = -(-len(distilled.labels) // MOST_ASKED)
    labels = distilled.labels[::every]
    if not can_tell(labels, num_classes=num_classes):
        return None
    pool: Any = NearestMean(table)
    images = distilled.unit_images(slice(None, None, every)).to(table.device)
    verdict = measure_agreement(
        pool, images, labels, what="real", num_classes=num_classes
    ).teachers[0]
    if verdict.problem is None or "wrong class order" not in verdict.problem:
        return None
    told, _, _ = verdict.problem.removeprefix("teacher ").rpartition("; correct")
    return f"{told}: declare the order of its classes, or of its class folders"
