"""What students see of images: a size, and views where the protocol has them."""

from __future__ import annotations

from collections.abc import Iterator
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
        step, epoch = 0, 0
        while step < self.num_steps:
            generator = keyed_generator(self.seed, "student", self.index, "order", epoch)
            order = torch.randperm(len(self.candidate.labels), generator=generator)
            for indices in order.split(self.batch_size)[: self.num_steps - step]:
                yield self.batch(indices, epoch=epoch, step=step)
                step += 1
            epoch += 1

    def batch(self, indices: torch.Tensor, *, epoch: int, step: int) -> StudentBatch:
        """Return the views of images ``indices`` ``(n,)``, on the CPU, in an epoch."""
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
        if self.augmentation is not None:
            key = (self.seed, "student", self.index, "augment", step)
            draws = self.augmentation.draw(
                len(images), generator=keyed_generator(*key), shared_op=True
            )
            images = self.augmentation(images.unsqueeze(1), draws).squeeze(1)
        return StudentBatch(
            images=images,
            labels=labels[indices.to(labels.device)],
            partner_labels=labels[drawn.partners.to(labels.device)],
            shares=drawn.shares.to(images),
            logits=logits,
            partner_logits=partner_logits,
        )
