"""Under what conditions the rows of a table were reached, in lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from geodm_lightning.data.views import ViewRecipe
from geodm_lightning.evaluation.interval import LEVEL
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.evaluation.supervision import HARD, Supervision


def share(fraction: float) -> str:
    """Return a share in percent with two significant digits.

    Example:
        >>> share(1.0), share(0.025), share(0.3333)
        ('100 %', '2.5 %', '33 %')
    """
    return "100 %" if fraction == 1 else f"{100 * fraction:.2g} %"


def supervisions_of(results: Sequence[EvaluationResult]) -> tuple[Supervision, ...]:
    """Return what the students of the results learned from, each once, in order."""
    return tuple(dict.fromkeys(result.supervision for result in results))


class Column(NamedTuple):
    """What the cells of a column of a table share.

    Attributes:
        label: Heading, without the unit.
        supervision: What students learned from, None where rows tell it.
        architecture: Name of the students' architecture.
    """

    label: str
    supervision: Supervision | None
    architecture: str

    def holds(self, result: EvaluationResult) -> bool:
        """Whether a result stands in this column."""
        is_own = self.supervision in (None, result.supervision)
        return is_own and result.architecture == self.architecture

    def row_label(self, result: EvaluationResult) -> str:
        """Return the label of a result's row, with its supervision where the column has none."""
        told = self.supervision is not None or result.supervision == HARD
        return result.label if told else f"{result.label} · {result.supervision.label}"


def columns_of(results: Sequence[EvaluationResult]) -> tuple[Column, ...]:
    """Return the columns of a table: architectures where there are several, else supervisions."""
    architectures = dict.fromkeys((r.architecture, r.student_label) for r in results)
    if len(architectures) > 1:
        return tuple(Column(label, None, name) for name, label in architectures)
    (own,) = (name for name, _ in architectures)
    return tuple(Column(s.label, s, own) for s in supervisions_of(results))


def describe_protocol(protocol: Protocol) -> str:
    """Return a protocol in one line."""
    p = protocol
    steps = ", ".join(f"{milestone:g}" for milestone in p.milestones)
    momentum = f", momentum {p.momentum:g}" if p.momentum else ""
    vectors = "" if p.decay_vectors else " of matrices"
    schedule = f", ×{p.gamma:g} after {steps} of the schedule" if steps else ""
    if p.schedule == "cosine":
        schedule = f", half cosine over {p.smoothing:g} times the schedule"
    average = f", average of the weights with decay {p.ema_decay:g}" if p.ema_decay else ""
    cutmix = f", CutMix with probability {p.cutmix_probability:g}" if p.cutmix_probability else ""
    seen = f" at {p.resolution} px" if p.resolution else ""
    return (
        f"{p.name}: {describe_network(p)}{seen}, {p.epochs} epochs of "
        f"batches of {p.batch_size}, {p.optimizer} at {p.lr:g}{momentum}, weight decay "
        f"{p.weight_decay:g}{vectors}{schedule}{average}; augmentation {p.augmentation} "
        f"({p.augmentation_mode}){cutmix}{_describe_views(p)}"
    )


def describe_network(protocol: Protocol) -> str:
    """Return the network of a protocol with its options."""
    options = ", ".join(f"{key} {value}" for key, value in protocol.network_options.items())
    return protocol.network + (f" ({options})" if options else "")


def _describe_views(protocol: Protocol) -> str:
    if protocol.views is None:
        return ""
    recipe = ViewRecipe(resolution=1, **protocol.views)
    low, high = recipe.crop_scale
    mirrored = ", mirrored where that keeps the class" if recipe.flip else ""
    return (
        f"; views of {low:g} to {high:g} of the area{mirrored}, "
        f"CutMix with probability {recipe.cutmix_probability:g}"
    )


def describe_supervision(supervision: Supervision) -> str:
    """Return a supervision in one line, without its name."""
    s = supervision
    if not s.needs_labels:
        return "cross-entropy to the classes"
    terms = (
        (s.ce, "cross-entropy to the classes"),
        (s.mse, "squared difference of logits"),
        (s.kl, f"divergence at temperature {s.kl_temperature:g}"),
        (
            s.transport,
            f"transport between logits at temperature {s.transport_temperature:g}, "
            f"epsilon {s.epsilon:g}",
        ),
    )
    listed = " + ".join(f"{weight:g} × {term}" for weight, term in terms if weight)
    if s.teachers == "own":
        return f"{listed}; to labels that came with the set"
    pool = "as many as the images per class ask for" if s.teachers == "aligned" else "all"
    return f"{listed}; teachers: {pool}"


def notes(results: Sequence[EvaluationResult]) -> tuple[str, ...]:
    """Return protocol, supervisions, repetitions and shares of results of one table."""
    protocol = results[0].protocol
    return (
        f"Protocol {describe_protocol(protocol)}.",
        *_supervision_notes(results),
        *_architecture_notes(results),
        f"Accuracy on {_tested_images(results)} after the last epoch, mean ± sample standard "
        "deviation over all students.",
        *_precision_notes(results),
        *_spread_notes(results),
        *interval_notes(results),
        f"Students: {share(protocol.fraction)} of the published epochs.",
        *_schedule_notes(results),
        *dict.fromkeys(
            f"{r.label}: {r.protocol.whole_steps} optimiser steps, a budget of our choice."
            for r in results
            if r.ipc is None
        ),
    )


def _tested_images(results: Sequence[EvaluationResult]) -> str:
    """Say which images the students of a table were tested on."""
    validated = results[0].tested_on == "validation"
    return "held-out training images, not the test images," if validated else "the test images"


def _precision_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say which rows were computed in another precision than float32, where some were."""
    labels: dict[str, dict[str, None]] = {}
    for result in results:
        if result.precision != "32-true":
            labels.setdefault(result.precision, {})[result.label] = None
    return [f"Trained in {precision}: {', '.join(names)}." for precision, names in labels.items()]


def _supervision_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say what students learned from, where it was not hard labels alone."""
    supervisions = supervisions_of(results)
    if supervisions == (HARD,):
        return []
    lines = []
    for supervision in supervisions:
        pools = {r.teachers for r in results if r.supervision == supervision and r.teachers}
        names = " or ".join(sorted(", ".join(pool) for pool in pools))
        told = f" ({names})" if names else ""
        lines.append(f"{supervision.label}: {describe_supervision(supervision)}{told}.")
    return lines


def _architecture_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say which networks judge the sets beside the protocol's own."""
    networks = {
        result.student_label: describe_network(result.protocol)
        for result in results
        if result.architecture
    }
    listed = ", ".join(f"{label} is {network}" for label, network in networks.items())
    return [f"Other architectures under the same protocol: {listed}."] if listed else []


def interval_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Give the confidence intervals of the means, by what they are independent of."""
    told: dict[bool, dict[str, list[str]]] = {}
    for result in results:
        interval = result.interval()
        if interval is not None:
            ends = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
            told.setdefault(result.num_sets > 1, {}).setdefault(result.label, []).append(ends)
    units = {
        True: "over the sets of the seeds",
        False: "over the students of one set, which say nothing of other sets",
    }
    return [
        f"{LEVEL:.0%} intervals of the mean, Student's t {units[several]}: ".replace("%", " %", 1)
        + ", ".join(f"{label} {' / '.join(ends)}" for label, ends in intervals.items())
        + "."
        for several, intervals in told.items()
    ]


def _spread_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say how far the means of the seeds lie apart, set by set, in the order of the columns."""
    spreads: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.std_of_seeds is not None:
            spread = f"{100 * result.std_of_seeds:.1f}"
            spreads.setdefault((result.method, result.label), []).append(spread)
    between = ", ".join(f"{label} {' / '.join(values)}" for (_, label), values in spreads.items())
    return [f"Standard deviation between the means of the seeds: {between}."] if between else []


def _schedule_notes(results: Sequence[EvaluationResult]) -> list[str]:
    """Say what share of their published iterations the rows ran, one line per share."""
    labels: dict[str, dict[str, None]] = {}
    for result in results:
        if result.schedule_share is not None:
            labels.setdefault(share(result.schedule_share), {})[result.label] = None
    return [
        f"{', '.join(names)}: {part} of the published iterations." for part, names in labels.items()
    ]
