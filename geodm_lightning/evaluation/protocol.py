"""How a student is trained: every number that decides an accuracy besides the images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR

from geodm_lightning.data.augment import Mode
from geodm_lightning.data.views import ViewRecipe
from geodm_lightning.types import InputError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("milestones", "cosine")
# Younger than the oldest results: not written, nor part of a digest, while they do nothing.
OPTIONAL = ("schedule", "smoothing", "ema_decay", "decay_vectors", "views", "resolution")


@dataclass(frozen=True)
class Protocol:
    """Recipe by which fresh students are trained on a set and judged on real images.

    Published recipes are written down in ``configs/evaluation``: A of DC, DSA and DM, C of NCFM
    with hard labels, and that of EDC. Only accuracies under one protocol may be compared, which
    :meth:`digest` decides.

    Attributes:
        name: Short name of the recipe, such as ``"A"``.
        epochs: Passes over a distilled set.
        published_epochs: Passes that the source of the recipe makes.
        batch_size: Images per optimiser step.
        optimizer: ``"sgd"`` or ``"adamw"``.
        lr: Learning rate of the first step.
        momentum: Momentum of SGD; AdamW keeps its own betas and wants 0 here.
        weight_decay: Weight decay of the optimiser.
        milestones: Shares of the schedule, each in ``(0, 1)``, after which the rate is cut.
        gamma: Factor of each cut.
        augmentation: Augmentations joined by ``"_"``, such as ``"color_crop_flip"``, or ``"none"``.
        augmentation_mode: ``"one"`` draws one of them per batch, ``"compound"`` applies all.
        cutmix_probability: Chance of a batch to be mixed by CutMix.
        network: Name of the students' network.
        schedule: ``"milestones"`` or ``"cosine"``, the half cosine of EDC, which changes with
            every step (by epochs there).
        smoothing: How much longer than the training the cosine's way to 0 is; 2 in EDC, whose
            rate ends at half of what it was.
        ema_decay: Share of the average of the weights that is kept at a step, 0 for none. It is
            the average that is tested; 0.99 in EDC. In its first steps less is kept,
            ``(1 + step) / (10 + step)`` at most, so that the first weights are forgotten in a
            short training too (inferred). Statistics of batch norms are those of the last
            step, as in EDC.
        decay_vectors: Whether biases, norms and other vectors decay too; not in EDC and RDED.
        views: Fields of :class:`~geodm_lightning.data.views.ViewRecipe` but the resolution:
            students then see views of the images, which teachers may have labelled.
        resolution: Height and width in pixels of what a student sees, None for those of the
            data set. Test images, and training images without views, are cropped at the centre.
        network_options: Further arguments of the network.
        num_students: Students trained per set, each from weights of its own.
        whole_steps: Optimiser steps of the baseline that trains on all real images. Published
            recipes define synthetic sets only, so this budget is a choice of ours.
    """

    name: str
    epochs: int
    published_epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    milestones: tuple[float, ...]
    gamma: float
    augmentation: str
    augmentation_mode: Mode
    network: str
    num_students: int
    whole_steps: int
    momentum: float = 0.0
    cutmix_probability: float = 0.0
    network_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "milestones"
    smoothing: float = 1.0
    ema_decay: float = 0.0
    decay_vectors: bool = True
    views: Mapping[str, Any] | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(float(share) for share in self.milestones))
        object.__setattr__(self, "network_options", dict(self.network_options))
        if self.views is not None:
            object.__setattr__(self, "views", json.loads(json.dumps(dict(self.views))))
        for name in ("epochs", "published_epochs", "batch_size", "num_students", "whole_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"protocol.{name} must be a whole number from 1, got {value!r}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"protocol.optimizer is {self.optimizer!r}; use one of {', '.join(OPTIMIZERS)}"
            )
        if self.augmentation_mode not in get_args(Mode):
            raise InputError(
                f"protocol.augmentation_mode is {self.augmentation_mode!r}; "
                f"use one of {', '.join(get_args(Mode))}"
            )
        self._check_numbers()
        self._check_schedule()
        self._check_views()

    def _check_numbers(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"protocol.lr must be positive, got {self.lr}")
        if not 0 <= self.momentum < 1 or (self.optimizer == "adamw" and self.momentum):
            raise InputError(
                f"protocol.momentum must lie in [0, 1) and be 0 for adamw, got {self.momentum}"
            )
        if not 0 <= self.cutmix_probability <= 1:
            raise InputError(
                f"protocol.cutmix_probability must lie in [0, 1], got {self.cutmix_probability}"
            )
        inside = all(0 < share < 1 for share in self.milestones)
        if not inside or list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(
                f"protocol.milestones must rise strictly inside (0, 1), got {self.milestones}"
            )

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"protocol.schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}"
            )
        if self.schedule == "cosine" and self.milestones:
            raise InputError("protocol.milestones must be [] where protocol.schedule is cosine")
        if not 1 <= self.smoothing < math.inf:
            raise InputError(f"protocol.smoothing must be a number from 1, got {self.smoothing}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"protocol.ema_decay must lie in [0, 1), got {self.ema_decay}")

    def _check_views(self) -> None:
        resolution = 1 if self.resolution is None else self.resolution
        if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
            raise InputError(f"protocol.resolution must be pixels or null, got {resolution!r}")
        if self.views is None:
            return
        try:
            ViewRecipe(resolution=resolution, **self.views)
        except TypeError as error:
            raise InputError(f"protocol.views does not fit a recipe of views: {error}") from error
        if self.cutmix_probability:
            raise InputError(
                "protocol.cutmix_probability must be 0 where there are views; "
                "set protocol.views.cutmix_probability"
            )

    @property
    def fraction(self) -> float:
        """Share of the published epochs that this protocol runs."""
        return self.epochs / self.published_epochs

    def shortened(self, max_epochs: int) -> Protocol:
        """Return this protocol with at most ``max_epochs`` epochs; ``fraction`` tells the cut.

        Milestones are shares and move along; the steps of the whole-set baseline shrink by the
        same factor as the epochs.

        Raises:
            InputError: If ``max_epochs`` is not positive.
        """
        if max_epochs < 1:
            raise InputError(f"max_epochs must be a whole number from 1, got {max_epochs}")
        epochs = min(self.epochs, max_epochs)
        whole_steps = max(1, round(self.whole_steps * epochs / self.epochs))
        return dataclasses.replace(self, epochs=epochs, whole_steps=whole_steps)

    def num_steps(self, num_images: int) -> int:
        """Return the optimiser steps of a student on a distilled set of ``num_images`` images."""
        return self.epochs * math.ceil(num_images / self.batch_size)

    def milestone_steps(self, num_steps: int) -> list[int]:
        """Return the steps before which the rate is cut, for a schedule of ``num_steps``."""
        return [round(share * num_steps) for share in self.milestones]

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser of a student's parameters."""
        groups: Any = parameters
        if not self.decay_vectors:
            own = list(parameters)
            groups = [
                {"params": [p for p in own if p.dim() > 1]},
                {"params": [p for p in own if p.dim() <= 1], "weight_decay": 0.0},
            ]
        if self.optimizer == "adamw":
            return AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)
        return SGD(groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def build_scheduler(self, optimizer: Optimizer, *, num_steps: int) -> LRScheduler:
        """Return the learning-rate schedule, to be advanced after every optimiser step."""
        if self.schedule == "milestones":
            return MultiStepLR(optimizer, self.milestone_steps(num_steps), gamma=self.gamma)
        period = self.smoothing * num_steps
        return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / period)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without optional ones that do nothing."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if k not in OPTIONAL or v != defaults[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Build a protocol from the fields written by :meth:`to_dict`.

        Raises:
            InputError: If a field is missing, unknown or out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"protocol fields do not fit ({error}); evaluate again") from error

    def digest(self) -> str:
        """Return 16 hexadecimal digits that differ when a student would be trained differently.

        The number of students is left out: it repeats the training and does not change it.
        """
        return self._digest_without("num_students")

    def comparison_digest(self) -> str:
        """Return :meth:`digest` without the whole-set budget, which no distilled set sees."""
        return self._digest_without("num_students", "whole_steps")

    def recipe_digest(self) -> str:
        """Return :meth:`comparison_digest` without the network: one recipe, any architecture."""
        return self._digest_without("num_students", "whole_steps", "network", "network_options")

    def _digest_without(self, *left_out: str) -> str:
        values = {key: value for key, value in self.to_dict().items() if key not in left_out}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
