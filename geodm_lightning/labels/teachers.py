"""Teachers: trained classifiers that take images as the data set normalises them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geodm_lightning.labels.weights import Weighted, is_file, timm_network, torchvision_network
from geodm_lightning.types import DatasetSpec, InputError

Source = Literal["torchvision", "timm", "trained"]
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class TeacherSpec:
    """Which network a teacher is and where its weights come from.

    Attributes:
        source: ``torchvision`` or ``timm``; ``trained`` for a network of this library that is
            handed in ready.
        name: Name of the network.
        weights: Name of published weights, a local file, or None for the published default.
        classes: Index of each class of the data set among the teacher's outputs, such as the ten
            of ImageNette in ImageNet's thousand; None where outputs and classes are the same.

    Raises:
        InputError: If the source is unknown.
    """

    source: Source
    name: str
    weights: str | None = None
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            valid = ", ".join(get_args(Source))
            raise InputError(f"unknown source {self.source!r} of teacher {self.name}: {valid}")
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))


class Teacher(nn.Module):
    """A classifier in eval mode that takes images as a data set normalises them.

    Args:
        network: Maps images in its own normalisation to logits ``(n, outputs)``.
        dataset: The data set whose normalised images are labelled.
        name: Name for messages.
        mean: Per-channel mean the network expects, None for the data set's.
        std: Per-channel standard deviation it expects, None for the data set's.
        classes: Output of each class of the data set, None for all in order.

    Raises:
        InputError: If ``classes`` does not name one output per class.
    """

    _scale: Tensor | None
    _shift: Tensor | None
    _classes: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        dataset: DatasetSpec,
        *,
        name: str,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        own = torch.tensor([mean or dataset.mean, std or dataset.std], dtype=torch.float64)
        given = torch.tensor([dataset.mean, dataset.std], dtype=torch.float64)
        scale, shift = given[1] / own[1], (given[0] - own[0]) / own[1]
        same = torch.equal(own, given)
        self.register_buffer("_scale", None if same else scale.float()[:, None, None])
        self.register_buffer("_shift", None if same else shift.float()[:, None, None])
        if classes is not None and len(set(classes)) != dataset.num_classes:
            raise InputError(
                f"teacher {name} is told {len(set(classes))} different classes, "
                f"{dataset.name} has {dataset.num_classes}; list one output per class"
            )
        self.register_buffer("_classes", None if classes is None else torch.tensor(list(classes)))

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher does not learn, and its norms do not look at batches."""
        return super().train(mode=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(n, ch, h, w)``, normalised by the data set, to logits ``(n, K)``."""
        if self._scale is not None and self._shift is not None:
            images = images * self._scale + self._shift
        logits = self.network(images)
        return logits if self._classes is None else logits[:, self._classes]

    def digest(self) -> str:
        """Return a SHA-256 of name, weights, normalisation and classes."""
        digest = hashlib.sha256(self.name.encode())
        for key, value in self.state_dict().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_teacher(
    spec: TeacherSpec,
    dataset: DatasetSpec,
    *,
    resolution: int,
    network: nn.Module | None = None,
) -> Teacher:
    """Build a teacher and try it on an empty image.

    Weights in a local file are taken to expect the published normalisation where the network
    answers ImageNet's classes, the data set's otherwise (inferred).

    Args:
        spec: Which network, which weights.
        dataset: The data set to label.
        resolution: Height and width of the views in pixels.
        network: The network itself where the source is ``trained``.

    Returns:
        The teacher, on the CPU.

    Raises:
        InputError: If weights are missing, damaged or do not fit, if the network cannot take such
            images, or if it answers another number of classes.
    """
    mean, std = None, None
    if spec.source == "trained":
        if network is None:
            raise InputError(f"teacher {spec.name} is to be trained here: hand in its network")
    else:
        network, *statistics = _with_weights(spec, dataset, resolution)
        if not is_file(spec.weights) or _answers_imagenet(spec, dataset):
            mean, std = statistics
    options = {"name": spec.name, "mean": mean, "std": std}
    image = torch.zeros(1, dataset.channels, resolution, resolution)
    num_outputs = _num_outputs(Teacher(network, dataset, **options), image, spec)  # type: ignore[arg-type]
    if spec.classes is None and num_outputs != dataset.num_classes:
        raise InputError(
            f"teacher {spec.name} answers {num_outputs} classes, {dataset.name} has "
            f"{dataset.num_classes}; choose teachers of this data set or list classes="
        )
    if spec.classes and not 0 <= min(spec.classes) <= max(spec.classes) < num_outputs:
        raise InputError(
            f"teacher {spec.name} answers {num_outputs} classes, classes= lists {max(spec.classes)}"
        )
    return Teacher(network, dataset, **options, classes=spec.classes)  # type: ignore[arg-type]


def _with_weights(spec: TeacherSpec, dataset: DatasetSpec, resolution: int) -> Weighted:
    outputs = IMAGENET_CLASSES if _answers_imagenet(spec, dataset) else dataset.num_classes
    if spec.source == "torchvision":
        return torchvision_network(spec.name, weights=spec.weights, num_outputs=outputs)
    return timm_network(
        spec.name,
        weights=spec.weights,
        num_outputs=outputs,
        channels=dataset.channels,
        resolution=resolution,
    )


def _answers_imagenet(spec: TeacherSpec, dataset: DatasetSpec) -> bool:
    return spec.classes is not None or dataset.num_classes == IMAGENET_CLASSES


def _num_outputs(teacher: Teacher, image: Tensor, spec: TeacherSpec) -> int:
    try:
        with torch.inference_mode():
            logits = teacher(image)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        shape = "×".join(str(size) for size in image.shape[1:])
        raise InputError(
            f"teacher {spec.name} cannot take {shape} images: {reason}; choose another teacher"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"teacher {spec.name} is no classifier: it answers no (n, K) logits")
    return logits.shape[1]
