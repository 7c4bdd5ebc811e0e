"""Whether teachers and labels mean the same classes, asked before anything is labelled."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from torch import Tensor

from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.types import InputError

What = Literal["real", "generated"]
LEVEL = 1e-3  # chance of stopping for nothing, per teacher and test
CONSTANT = 0.9  # share of answers that are one class from which they are called constant
CLEAR = 0.5  # agreement under another order, if not ten times chance, that shows a trained teacher


class Verdict(NamedTuple):
    """How the answers of one teacher, or of the mean of all, agree with the labels.

    Attributes:
        name: Of the teacher, ``mean`` for the mean of their logits.
        accuracy: Share of the images answered as labelled.
        problem: What is wrong and the likely cause, None if nothing is.
    """

    name: str
    accuracy: float
    problem: str | None


class Agreement(NamedTuple):
    """How a pool agrees with labelled images.

    Attributes:
        what: ``real`` or ``generated`` images.
        num_images: Images asked about.
        teachers: One verdict per teacher, in the order of the pool.
        mean: Verdict of the mean of their logits.
    """

    what: str
    num_images: int
    teachers: tuple[Verdict, ...]
    mean: Verdict

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line per teacher that has a problem."""
        return tuple(verdict.problem for verdict in self.teachers if verdict.problem is not None)


def check_agreement(
    pool: TeacherPool, images: Tensor, labels: Tensor, *, what: What, num_classes: int
) -> Agreement:
    """Stop unless every teacher agrees with labelled images more than chance would.

    See :func:`measure_agreement`; ask about real images first, then about generated ones.

    Raises:
        InputError: With the first teacher's problem and its likely cause.
    """
    agreement = measure_agreement(pool, images, labels, what=what, num_classes=num_classes)
    if agreement.problems:
        raise InputError(agreement.problems[0])
    return agreement


def can_tell(labels: Tensor, *, num_classes: int) -> bool:
    """Whether images of these classes ``(n,)`` are enough to tell a teacher from guessing."""
    return len(labels) > 0 and _chance(labels.cpu(), num_classes) ** len(labels) <= LEVEL


def measure_agreement(
    pool: TeacherPool, images: Tensor, labels: Tensor, *, what: What, num_classes: int
) -> Agreement:
    """Compare the answers of teachers with labels, and find the likely cause of a disagreement.

    A teacher has a problem if

    * its right answers are no more than guessing would give: the probability of as many, a
      binomial tail at the share of the largest class, exceeds one in a thousand; or
    * its classes are in another order: a reordering found on one half of the images explains the
      other half better than the labels as they are (a sign test at the same level). Either the
      first holds too, and half of that other half, or ten times chance, agree when reordered: an
      untrained network has a best order too, but not such a one. Or some classes are answered,
      mostly, as each other in a ring: a part of the classes is in another order.

    A weak teacher that beats guessing has none: on 1000 images of 10 classes 13 % are enough.

    Args:
        pool: The teachers.
        images: ``(n, ch, r, r)`` normalised by the data set, on the pool's device.
        labels: ``(n,)`` int64 class indices on any device.
        what: Which images these are; decides the cause that is named.
        num_classes: Number of classes.

    Returns:
        Accuracies and problems.

    Raises:
        InputError: If there are so few images that even a perfect teacher could be guessing.
    """
    labels = labels.cpu()
    if not can_tell(labels, num_classes=num_classes):
        raise InputError(
            f"{len(labels)} {what} images are too few to tell teachers from guessing; take more"
        )
    logits = pool.answers(images)
    names = [str(teacher.name) for teacher in pool.teachers]
    verdicts = [
        _verdict(name, answers.argmax(1).cpu(), labels, what, num_classes)
        for name, answers in zip([*names, "mean"], [*logits, logits.mean(0)], strict=True)
    ]
    return Agreement(what, len(labels), tuple(verdicts[:-1]), verdicts[-1])


def _verdict(name: str, answers: Tensor, labels: Tensor, what: What, num_classes: int) -> Verdict:
    accuracy = (answers == labels).double().mean().item()
    guessing = _guessing(answers, labels, num_classes)
    order, reordered = _other_order(answers, labels, num_classes)
    explains = guessing and reordered >= min(CLEAR, 10 * _chance(labels, num_classes))
    if order is not None and not explains and not _rings(answers, labels, order):
        order = None
    if order is None and not guessing:
        return Verdict(name, accuracy, None)
    start = f"teacher {name} answers {accuracy:.1%} of {len(labels)} {what} images as labelled"
    if order is not None:
        label = int(_moved(answers, labels, order).argmax())
        cause = (
            f"wrong class order: for example class {label} is answered as {int(order[label])}, "
            f"and reordered {reordered:.1%} agree; "
            + {
                "real": "correct classes= of the teacher or the order of the class folders",
                "generated": "correct the classes the generator is asked for",
            }[what]
        )
        return Verdict(name, accuracy, f"{start}: {cause}")
    counts = torch.bincount(answers, minlength=num_classes)
    common = int(counts.argmax())
    if counts[common] >= CONSTANT * len(answers):
        reason = f"class {common} is its answer to {counts[common] / len(answers):.1%}"
    else:
        reason = f"chance is {_chance(labels, num_classes):.1%}, and no other class order helps"
    cause = {
        "real": "wrong weights or wrong normalisation; check both, or leave this teacher out",
        "generated": "if it knows real images, these do not show their classes; look at them",
    }[what]
    return Verdict(name, accuracy, f"{start} ({reason}): {cause}")


def _chance(labels: Tensor, num_classes: int) -> float:
    """Return the share of right answers that guessing gives at best."""
    counts = torch.bincount(labels, minlength=num_classes)
    return max(1 / num_classes, counts.max().item() / max(len(labels), 1))


def _guessing(answers: Tensor, labels: Tensor, num_classes: int) -> bool:
    """Whether so many right answers happen by guessing more often than LEVEL."""
    hits = int((answers == labels).sum())
    return bool(binom.sf(hits - 1, len(labels), _chance(labels, num_classes)) > LEVEL)


def _other_order(answers: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor | None, float]:
    """Return the answer ``(C,)`` to each class under a better order, and the accuracy under it.

    The order is found on every second image of each class and judged on the others; it is None
    if it is no better there than the labels as they are.
    """
    order_of_images = labels.argsort(stable=True)
    within = torch.arange(len(labels)) - torch.searchsorted(
        labels[order_of_images], labels[order_of_images]
    )
    fitted, judged = (order_of_images[within % 2 == half] for half in (0, 1))
    confusion = _confusion(answers[fitted], labels[fitted], num_classes)
    # Ties go to the labels as they are.
    _, columns = linear_sum_assignment(confusion.double() + 0.5 * torch.eye(num_classes), True)
    order = torch.from_numpy(columns).long()
    gained = int(((answers == order[labels]) & (answers != labels))[judged].sum())
    lost = int(((answers != order[labels]) & (answers == labels))[judged].sum())
    accuracy = (answers == order[labels])[judged].double().mean().item()
    better = gained > 0 and binom.sf(gained - 1, gained + lost, 0.5) < LEVEL
    return (order if better else None), accuracy


def _rings(answers: Tensor, labels: Tensor, order: Tensor) -> bool:
    """Whether some classes are each answered, mostly, as the next of a ring of them."""
    mostly = _moved(answers, labels, order) > 0.5
    for start in mostly.nonzero().flatten().tolist():
        label = int(order[start])
        while mostly[label] and label != start:
            label = int(order[label])
        if label == start:
            return True
    return False


def _moved(answers: Tensor, labels: Tensor, order: Tensor) -> Tensor:
    """Share ``(C,)`` of each class that is answered as its other one, 0 if it has none."""
    confusion = _confusion(answers, labels, len(order)).double()
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    classes = torch.arange(len(order))
    return shares[classes, order] * (order != classes)


def _confusion(answers: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count ``(C, C)`` how often a class, the row, is answered as another, the column."""
    flat = torch.bincount(labels * num_classes + answers, minlength=num_classes**2)
    return flat.view(num_classes, num_classes)
