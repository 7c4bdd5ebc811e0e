"""Cross-entropy of synthetic images in networks trained on real ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.networks.pool import TrainedPool


class Calibration:
    """Draws the synthetic images of a class to where trained networks recognise it.

    DANCE and NCFM give the images a second pass with this loss after every matching step;
    here both losses step together, on one augmentation draw.

    Args:
        pool: Networks trained on real images; the final one of the training that the
            iteration draws is asked.
        weight: Factor on the loss; 1 in DANCE and NCFM.

    References:
        Zhang et al., "DANCE", 2024; Wang et al., "Dataset distillation with neural
        characteristic function", 2025.
    """

    def __init__(self, pool: TrainedPool, *, weight: float) -> None:
        self.pool = pool
        self.weight = weight

    def __call__(self, images: Tensor, *, first_class: int, iteration: int) -> Tensor:
        """Return the weighted mean cross-entropy of the images of each class.

        Args:
            images: Normalised images of consecutive classes, ``(C, S, ch, h, w)``.
            first_class: Class of the first of them.
            iteration: Iteration of the run.

        Returns:
            Losses of shape ``(C,)``, in nats.
        """
        num_classes, num_images = images.shape[:2]
        labels = torch.arange(first_class, first_class + num_classes, device=images.device)
        logits = self.pool.trained(iteration)(images.flatten(0, 1)).float()
        losses = functional.cross_entropy(
            logits, labels.repeat_interleave(num_images), reduction="none"
        )
        return self.weight * losses.unflatten(0, (num_classes, num_images)).mean(1)
