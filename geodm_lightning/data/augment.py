"""Augmentation that gradients pass through, with one draw shared by a group of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from geodm_lightning.data.operations import OPERATIONS
from geodm_lightning.types import DatasetSpec, InputError

Mode = Literal["one", "compound"]
ALWAYS = ("flip", "color", "cutout")  # in compound mode, in this order
NONE = -1  # operation index of a group to which none was drawn
_ENDS = list(accumulate(operation.num_draws for operation in OPERATIONS.values()))
_NAMES = tuple(OPERATIONS)


@dataclass(frozen=True)
class AugmentDraw:
    """Which operation every group gets, with all parameters; lives on the CPU.

    Attributes:
        operation: ``(G,)`` index into the operations, or -1 where none was drawn.
        parameters: ``(G, 11)`` draws of U(0, 1), columns in the order of ``OPERATIONS``. There
            is a column for every operation, so the strategy does not change the numbers drawn.
    """

    operation: Tensor
    parameters: Tensor

    def select(self, index: slice | Tensor | Sequence[int]) -> AugmentDraw:
        """Return the draws of some groups, such as the classes of one process."""
        return AugmentDraw(self.operation[index], self.parameters[index])


def joined(draws: Sequence[AugmentDraw]) -> AugmentDraw:
    """Return the draws of several groups of groups, one after the other."""
    return AugmentDraw(
        torch.cat([draw.operation for draw in draws]),
        torch.cat([draw.parameters for draw in draws]),
    )


class Augmentation:
    """Differentiable siamese augmentation.

    Args:
        strategy: Operations joined by ``_``, of color, crop, cutout, flip, scale and rotate;
            ``""`` or ``"none"`` leaves images as they are.
        mode: ``"one"`` applies a single operation, drawn from the list (DSA, DM). ``"compound"``
            applies flip, color and cutout where listed and one of the others, drawn (the DiffAug
            of IDC, DSDM and NCFM).

    Raises:
        InputError: If an operation or the mode is unknown.

    Example:
        Real and synthetic images of a class share one draw.

        >>> augmentation = Augmentation("color_crop_flip")
        >>> draw = augmentation.draw(10, generator=torch.Generator().manual_seed(0))
        >>> real, synthetic = torch.rand(10, 8, 3, 32, 32), torch.rand(10, 2, 3, 32, 32)
        >>> augmentation(real, draw).shape, augmentation(synthetic, draw).shape
        (torch.Size([10, 8, 3, 32, 32]), torch.Size([10, 2, 3, 32, 32]))

    References:
        Zhao and Bilen, "Dataset condensation with differentiable siamese augmentation", 2021;
        Kim et al., "Dataset condensation via efficient synthetic-data parameterization", 2022.
    """

    def __init__(
        self, strategy: str = "color_crop_cutout_flip_scale_rotate", mode: Mode = "one"
    ) -> None:
        names = [] if strategy in ("", "none") else strategy.split("_")
        if unknown := [name for name in names if name not in OPERATIONS]:
            raise InputError(
                f"unknown augmentation {unknown[0]!r} in {strategy!r}; "
                f"valid: {', '.join(OPERATIONS)}, joined by _, or none"
            )
        if mode not in get_args(Mode):
            raise InputError(f"unknown augmentation mode {mode!r}; valid: one, compound")
        self.always = tuple(name for name in ALWAYS if name in names) if mode == "compound" else ()
        self.drawn = tuple(dict.fromkeys(name for name in names if name not in self.always))

    def draw(
        self, num_groups: int, *, generator: torch.Generator, shared_op: bool = False
    ) -> AugmentDraw:
        """Draw the operation and the parameters of every group.

        Args:
            num_groups: Groups, such as classes when matching or images when training a student.
            generator: CPU generator.
            shared_op: Give all groups the same operation, each with parameters of its own.

        Returns:
            A draw for :meth:`__call__`.
        """
        choices = torch.tensor([_NAMES.index(name) for name in self.drawn] or [NONE])
        chosen = torch.randint(len(choices), (1 if shared_op else num_groups,), generator=generator)
        parameters = torch.rand(num_groups, _ENDS[-1], generator=generator)
        return AugmentDraw(choices[chosen].expand(num_groups), parameters)

    def __call__(self, images: Tensor, draw: AugmentDraw) -> Tensor:
        """Augment images group by group.

        Args:
            images: ``(G, n, ch, h, w)``; all ``n`` images of a group are treated alike.
            draw: A draw for ``G`` groups.

        Returns:
            Images of the same shape, differentiable in ``images``.
        """
        if len(draw.operation) != len(images):
            raise ValueError(f"draw is for {len(draw.operation)} groups, images have {len(images)}")
        parameters = draw.parameters.to(images, non_blocking=True)
        for name in self.always:
            images = _apply(name, images, parameters)
        return _apply_drawn(images, draw.operation, parameters)


def augmentation_for(spec: DatasetSpec, *, strategy: str, mode: Mode) -> Augmentation:
    """Build an augmentation for a data set: mirroring is left out where it changes the class.

    Args:
        spec: The data set.
        strategy: As in :class:`Augmentation`.
        mode: As in :class:`Augmentation`.

    Raises:
        InputError: If an operation or the mode is unknown.
    """
    names = [name for name in strategy.split("_") if spec.flip or name != "flip"]
    return Augmentation("_".join(names), mode)


class CutMixBatch(NamedTuple):
    """A batch in which every image may carry a patch of another.

    Attributes:
        images: ``(n, ch, h, w)``.
        labels_a: ``(n,)`` classes of the images.
        labels_b: ``(n,)`` classes of the patches.
        lam: Share of the area that belongs to ``labels_a``; 1.0 when nothing was mixed.
    """

    images: Tensor
    labels_a: Tensor
    labels_b: Tensor
    lam: float


class CutMix:
    """Pastes a rectangle of one image of the batch into another, with some probability.

    Args:
        probability: Chance of a batch to be mixed; the area's share is U(0, 1) (beta = 1).

    Raises:
        InputError: If the probability is not within [0, 1].

    References:
        Yun et al., "CutMix: regularization strategy to train strong classifiers", 2019.
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"CutMix probability must be within [0, 1], got {probability}")
        self.probability = probability

    def __call__(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> CutMixBatch:
        """Mix a batch, or not.

        Args:
            images: ``(n, ch, h, w)``; left unchanged.
            labels: ``(n,)`` class indices.
            generator: CPU generator.

        Returns:
            The batch with both labels and the exact share of the first one's area.
        """
        coin, area, row, column = torch.rand(4, generator=generator).tolist()
        partner = torch.randperm(len(images), generator=generator)
        if coin >= self.probability:
            return CutMixBatch(images, labels, labels, 1.0)
        height, width = images.shape[-2:]
        top, bottom = _patch(row, area, height)
        left, right = _patch(column, area, width)
        patches = images[partner.to(images.device), :, top:bottom, left:right]
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = patches
        lam = 1 - (bottom - top) * (right - left) / (height * width)
        return CutMixBatch(mixed, labels, labels[partner.to(labels.device)], lam)


def _patch(centre: float, area: float, side: int) -> tuple[int, int]:
    """Ends of an interval of ``sqrt(area)`` of the side, clipped to the image."""
    middle, half = int(centre * side), int(side * area**0.5) // 2
    return max(middle - half, 0), min(middle + half, side)


def _apply(name: str, images: Tensor, parameters: Tensor) -> Tensor:
    end = _ENDS[_NAMES.index(name)]
    operation = OPERATIONS[name]
    return operation.apply(images, parameters[:, end - operation.num_draws : end])


def _apply_drawn(images: Tensor, operation: Tensor, parameters: Tensor) -> Tensor:
    """Apply every group's operation, each operation once to all of its groups.

    Which groups these are is known on the CPU, so nothing waits for the device.
    """
    members = {
        index: (operation == index).nonzero().flatten() for index in operation.unique().tolist()
    }
    if len(members) == 1:
        (index,) = members
        return images if index == NONE else _apply(_NAMES[index], images, parameters)
    order = torch.cat(list(members.values()))
    places = torch.stack([order, order.argsort()]).to(images.device, non_blocking=True)
    sorted_images = images.index_select(0, places[0])
    sorted_parameters = parameters.index_select(0, places[0])
    sizes = [len(groups) for groups in members.values()]
    parts = zip(members, sorted_images.split(sizes), sorted_parameters.split(sizes), strict=True)
    done = [_apply(_NAMES[index], part, own) for index, part, own in parts]
    return torch.cat(done).index_select(0, places[1])
