"""Views and labels made elsewhere, as the batches of a student."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from geodm_lightning.data.views import Crops, crop
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import StudentBatch
from geodm_lightning.labels.given import GivenBatch, GivenViews
from geodm_lightning.types import InputError


class PlayedBatches:
    """The batches of all epochs in the order in which they were labelled, for every student.

    Args:
        candidate: Images to train on.
        views: Their views, made elsewhere.
        num_steps: Batches in all.
    """

    def __init__(self, candidate: Candidate, views: GivenViews, *, num_steps: int) -> None:
        self.candidate = candidate
        self.views = views
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[StudentBatch]:
        given = (batch for epoch in range(self.views.epochs) for batch in self.views.batches(epoch))
        return map(self.batch, islice(given, self.num_steps))

    def batch(self, given: GivenBatch) -> StudentBatch:
        """Return the views of one batch on the device of the images."""
        labels = self.candidate.labels
        indices = given.indices.to(labels.device)
        crops = Crops(given.crops.double(), given.flips)
        images = crop(self.candidate.fetch(indices), crops, resolution=self.views.resolution)
        partners, shares = given.partners.to(labels.device), given.shares.to(images)
        return StudentBatch(
            images=self._mixed(images, images[partners], given.boxes, shares),
            labels=labels[indices],
            partner_labels=labels[indices[partners]],
            shares=shares,
            logits=given.logits.float().to(images.device),
        )

    def _mixed(self, images: Tensor, partners: Tensor, boxes: Tensor, shares: Tensor) -> Tensor:
        if self.views.mix == "none":
            return images
        if self.views.mix == "mixup":
            own = shares[:, None, None, None]
            return own * images + (1 - own) * partners
        top, left, bottom, right = boxes.T[:, :, None]
        position = torch.arange(images.shape[-1])
        rows = (position >= top) & (position < bottom)
        columns = (position >= left) & (position < right)
        inside = (rows[:, :, None] & columns[:, None])[:, None].to(images.device)
        return torch.where(inside, partners, images)


def check_fits(views: GivenViews, protocol: Protocol, *, num_images: int, resolution: int) -> None:
    """Check that a protocol trains on the very batches that came with a set.

    Args:
        views: What came with the set.
        protocol: How students are trained.
        num_images: Images of the set, mosaics decoded.
        resolution: Height and width of what students see.

    Raises:
        InputError: If there are fewer epochs than the protocol makes, or batches, images or
            pixels of another number.
    """
    lengths = [len(batch.indices) for batch in views.batches(0)]
    if views.num_images != num_images:
        way_out = "import the set again"
        theirs, ours = f"of {views.num_images} images", f"has {num_images}"
        raise _misfit(protocol, theirs, ours, way_out)
    if views.resolution != resolution:
        way_out = f"set evaluation.protocol.resolution={views.resolution}"
        raise _misfit(protocol, f"{views.resolution} px wide", f"shows {resolution}", way_out)
    check_batches(lengths, protocol, epochs=views.epochs, num_images=num_images)


def check_batches(lengths: list[int], protocol: Protocol, *, epochs: int, num_images: int) -> None:
    """Check that a protocol makes batches as large, and no more epochs, than views came with.

    Args:
        lengths: Views in each batch of an epoch.
        protocol: How students are trained.
        epochs: Epochs of views.
        num_images: Images of the set, mosaics decoded.

    Raises:
        InputError: If it does not.
    """
    sizes = [len(part) for part in torch.arange(num_images).split(protocol.batch_size)]
    if lengths != sizes:
        way_out = f"set evaluation.protocol.batch_size={max(lengths)}"
        theirs = f"in {len(lengths)} batches of {max(lengths)}"
        ours = f"makes {len(sizes)} of {protocol.batch_size}"
        raise _misfit(protocol, theirs, ours, way_out)
    if epochs < protocol.epochs:
        way_out = f"set evaluation.protocol.epochs={epochs}"
        raise _misfit(protocol, f"of {epochs} epochs", f"makes {protocol.epochs}", way_out)


def _misfit(protocol: Protocol, theirs: str, ours: str, way_out: str) -> InputError:
    return InputError(
        f"the views that came with the set are {theirs}, protocol {protocol.name} {ours}; {way_out}"
    )
