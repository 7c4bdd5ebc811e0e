"""What students see of images: a size, and views where the protocol has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.batches import Fetch
from geodm_lightning.data.views import ViewRecipe, draw, render
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import StudentBatch
from geodm_lightning.labels.labeller import Labeller
from geodm_lightning.labels.own import OwnLabels
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, InputError


def input_spec(protocol: Protocol, spec: DatasetSpec) -> DatasetSpec:
    """Return a data set as students see it: with the resolution of their input.

    Raises:
        InputError: If its images are smaller than that.
    """
    if protocol.resolution is None:
        return spec
    if protocol.resolution > spec.resolution:
        raise InputError(
            f"protocol.resolution is {protocol.resolution}, images of {spec.name} have "
            f"{spec.resolution} pixels; set it to null or to {spec.resolution} at most"
        )
    return spec._replace(resolution=protocol.resolution)


def view_recipe(protocol: Protocol, spec: DatasetSpec) -> ViewRecipe:
    """Return how views of a data set are drawn; teachers label the views of this very recipe.

    Nothing is mirrored where that changes the class.

    Raises:
        InputError: If the protocol has no views, or the images are smaller than they.
    """
    if protocol.views is None:
        raise InputError(
            f"protocol {protocol.name} has no views that teachers could label; choose one that "
            "has, such as evaluation=protocol_edc"
        )
    resolution = input_spec(protocol, spec).resolution
    recipe = ViewRecipe(resolution=resolution, **protocol.views)
    return replace(recipe, flip=recipe.flip and spec.flip)


def centre_cropped(fetch: Fetch, *, side: int, resolution: int) -> Fetch:
    """Return ``fetch`` with its images, ``side`` pixels wide, cropped at the centre.

    Example:
        >>> fetch = lambda indices: torch.arange(16.0).reshape(1, 1, 4, 4)[indices]
        >>> centre_cropped(fetch, side=4, resolution=2)(torch.tensor([0])).tolist()
        [[[[5.0, 6.0], [9.0, 10.0]]]]
    """
    if side == resolution:
        return fetch
    start = (side - resolution) // 2
    kept = slice(start, start + resolution)
    return lambda indices: fetch(indices)[..., kept, kept]


class ViewBatches:
    """Views of all epochs in one iterable, with the labels that teachers gave them.

    The order of an epoch is that of one student. The views of an epoch are those of the run's
    seed, the same for all its students, so labels made once serve them all.

    Args:
        candidate: Images to train on.
        recipe: How views are drawn.
        batch_size: Images per batch; the last batch of an epoch may be smaller.
        num_steps: Batches in all; epochs follow each other until then.
        seed: Seed of the run, and of the views.
        index: Position of the student.
        labeller: Gives the teachers' answers, None without teachers.
        augmentation: What students alone go through after that, None for nothing.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        recipe: ViewRecipe,
        batch_size: int,
        num_steps: int,
        seed: int,
        index: int,
        labeller: Labeller | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.candidate = candidate
        self.recipe = recipe
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.index = index
        self.labeller = labeller
        self.augmentation = augmentation

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[StudentBatch]:
        for step, (epoch, indices) in enumerate(self.orders()):
            yield self.batch(indices, epoch=epoch, step=step)

    def orders(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the epoch of every batch and the images ``(n,)`` in it, on the CPU."""
        step, epoch = 0, 0
        while step < self.num_steps:
            generator = keyed_generator(self.seed, "student", self.index, "order", epoch)
            order = torch.randperm(len(self.candidate.labels), generator=generator)
            batches = order.split(self.batch_size)[: self.num_steps - step]
            yield from ((epoch, indices) for indices in batches)
            step, epoch = step + len(batches), epoch + 1

    def batch(self, indices: torch.Tensor, *, epoch: int, step: int) -> StudentBatch:
        """Return the views of images ``indices`` ``(n,)``, on the CPU, in an epoch."""
        return joint_views([self], [indices], epoch=epoch, step=step)[0]

    def labelled(self, indices: torch.Tensor, *, epoch: int) -> StudentBatch:
        """Return the views of an epoch as teachers see them, before what students add."""
        fetch, labels = self.candidate.fetch, self.candidate.labels
        drawn = draw(
            self.recipe, seed=self.seed, epoch=epoch, indices=indices, num_images=len(labels)
        )
        images = render(fetch, indices.to(labels.device), drawn, self.recipe)
        logits = partner_logits = None
        if self.labeller is not None:
            logits = self.labeller.logits(epoch, indices, images)
        if isinstance(self.labeller, OwnLabels):
            partner_logits = self.labeller.logits(epoch, drawn.partners, images)
        return StudentBatch(
            images=images,
            labels=labels[indices.to(labels.device)],
            partner_labels=labels[drawn.partners.to(labels.device)],
            shares=drawn.shares.to(images),
            logits=logits,
            partner_logits=partner_logits,
        )

    def augmented(self, batch: StudentBatch, *, step: int) -> StudentBatch:
        """Return a batch with its student's own augmentation of a step."""
        if self.augmentation is None:
            return batch
        generator = keyed_generator(self.seed, "student", self.index, "augment", step)
        draws = self.augmentation.draw(len(batch.images), generator=generator, shared_op=True)
        images = self.augmentation(batch.images.unsqueeze(1), draws).squeeze(1)
        return batch._replace(images=images)


def joint_views(
    streams: Sequence[ViewBatches], orders: Sequence[torch.Tensor], *, epoch: int, step: int
) -> list[StudentBatch]:
    """Return a batch of each of several students of one run.

    The views of an epoch are the same for all of them: those that several look at are made, and
    labelled, once.

    Args:
        streams: Batches that differ in the position of their student alone.
        orders: Images ``(n,)`` of each, on the CPU.
        epoch: Number of the epoch.
        step: Number of the step.

    Returns:
        What every stream would give alone.
    """
    chosen, places = torch.cat(list(orders)).unique(return_inverse=True)
    views = streams[0].labelled(chosen, epoch=epoch)
    own = places.to(views.images.device).split([len(order) for order in orders])
    batches = [
        StudentBatch._make(None if values is None else values[rows] for values in views)
        for rows in own
    ]
    pairs = zip(streams, batches, strict=True)
    return [stream.augmented(batch, step=step) for stream, batch in pairs]
