"""Labels of others: class indices, probabilities or logits; and the order of the classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.types import DatasetSpec, InputError

SUM_ROUNDING = 1e-3  # of a row of probabilities
SMALLEST = 1e-12  # probability that stands for none in a logarithm

# ImageNet indices of the classes in the order in which MTT and those after it number them.
MTT_ORDER: dict[str, tuple[int, ...]] = {
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}


class Labels(NamedTuple):
    """Labels that are understood.

    Attributes:
        classes: ``(N,)`` int64 class indices of the data set.
        logits: ``(N, K)`` float32, None where there are class indices alone.
        kind: ``classes``, ``logits`` or ``probabilities``, of the file.
        warnings: What was inferred.
    """

    classes: Tensor
    logits: Tensor | None
    kind: str
    warnings: tuple[str, ...] = ()


def mtt_order(dataset: str) -> tuple[int, ...] | None:
    """Return our class index of each label of MTT, None where they are the same.

    Example:
        >>> mtt_order("imagewoof")
        (5, 4, 8, 2, 0, 3, 1, 9, 6, 7)
    """
    indices = MTT_ORDER.get(dataset, ())
    ranks = tuple(sorted(indices).index(index) for index in indices)
    return None if ranks == tuple(sorted(ranks)) else ranks


def positions(order: tuple[str, ...], spec: DatasetSpec) -> Tensor:
    """Return the class index ``(K,)`` of each name in ``order``.

    Args:
        order: Class names or, of an ImageNet subset, WordNet folders.
        spec: The data set.

    Raises:
        InputError: If they are not the classes of the data set, each once.
    """
    folders = tuple(IMAGENET_SUBSETS.get(spec.name, ()))
    known = spec.class_names or tuple(sorted(order))
    for names in (known, folders):
        if sorted(order) == sorted(names):
            return torch.tensor([names.index(name) for name in order])
    unknown = [name for name in order if name not in known and name not in folders]
    problem = f"names {unknown[0]!r}, which is no class" if unknown else "is not the classes"
    raise InputError(
        f"order= {problem} of {spec.name}; list each of its {spec.num_classes} classes once: "
        f"{', '.join(known[:12])}{' …' if len(known) > 12 else ''}"
    )


def understand_labels(labels: Tensor, spec: DatasetSpec, declared: Declaration) -> Labels:
    """Tell class indices from soft labels, and probabilities from logits.

    Args:
        labels: ``(N,)`` or ``(N, K)`` of any dtype.
        spec: The data set.
        declared: What the caller says.

    Raises:
        InputError: If the labels do not fit the number of classes or what is declared of them.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        if declared.labels not in (None, "classes"):
            raise InputError(
                f"labels={declared.labels} is declared, but there is one value per image: classes"
            )
        return Labels(_indices(labels, spec), None, "classes")
    if labels.ndim != 2 or labels.shape[1] != spec.num_classes:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit the {spec.num_classes} classes of "
            f"{spec.name}; use data=NAME of their data set"
        )
    if not labels.float().isfinite().all():
        raise InputError("there are soft labels that are not finite; nothing can learn from them")
    return _soft(labels.float(), spec, declared)


def _indices(labels: Tensor, spec: DatasetSpec) -> Tensor:
    indices = labels.long()
    if not torch.equal(indices.to(labels.dtype), labels):
        raise InputError("there are labels that are no whole numbers, nor one row per image")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= spec.num_classes:
        raise InputError(
            f"labels from {low} to {high} do not fit the {spec.num_classes} classes of "
            f"{spec.name}; use data=NAME of their data set"
        )
    return indices


def _soft(labels: Tensor, spec: DatasetSpec, declared: Declaration) -> Labels:
    sums_to_one = (labels.sum(1) - 1).abs().max() <= SUM_ROUNDING
    are_shares = bool(sums_to_one) and float(labels.min()) >= 0
    kind = declared.labels or ("probabilities" if are_shares else "logits")
    warnings = []
    if kind == "classes":
        raise InputError("labels=classes is declared, but there is a row of values per image")
    if kind == "probabilities" and not are_shares:
        raise InputError("labels=probabilities is declared, but rows are not shares that sum to 1")
    if declared.labels is None:
        reason = "rows sum to 1" if are_shares else "rows do not sum to 1"
        warnings.append(f"inferred labels={kind}: {reason}")
    logits = labels.clamp_min(SMALLEST).log() if kind == "probabilities" else labels
    classes, warning = _hard(logits, spec)
    return Labels(classes, logits, kind, (*warnings, *warning))


def _hard(logits: Tensor, spec: DatasetSpec) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices ``(N,)`` of soft labels: those of the file's order where it has one."""
    largest = logits.argmax(1)
    ipc, rest = divmod(len(logits), spec.num_classes)
    listed = torch.arange(spec.num_classes).repeat_interleave(ipc)
    if rest or ipc == 0 or (agreeing := int((listed == largest).sum())) * 2 < len(logits):
        return largest, ("classes are those of the largest soft label",)
    if agreeing == len(logits):
        return largest, ()
    return listed, (
        f"classes are those of the order, {ipc} images each; the largest soft label is of another "
        f"class for {len(logits) - agreeing} of {len(logits)} images",
    )
