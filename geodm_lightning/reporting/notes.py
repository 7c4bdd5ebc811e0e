"""Under what conditions the rows of a table were reached, in lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from geodm_lightning.data.views import ViewRecipe
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
    options = ", ".join(f"{key} {value}" for key, value in p.network_options.items())
    seen = f" at {p.resolution} px" if p.resolution else ""
    return (
        f"{p.name}: {p.network}{f' ({options})' if options else ''}{seen}, {p.epochs} epochs of "
        f"batches of {p.batch_size}, {p.optimizer} at {p.lr:g}{momentum}, weight decay "
        f"{p.weight_decay:g}{vectors}{schedule}{average}; augmentation {p.augmentation} "
        f"({p.augmentation_mode}){cutmix}{_describe_views(p)}"
    )


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
    pool = "as many as the images per class ask for" if s.teachers == "aligned" else "all"
    return f"{listed}; teachers: {pool}"


def notes(results: Sequence[EvaluationResult]) -> tuple[str, ...]:
    """Return protocol, supervisions, repetitions and shares of results of one table."""
    protocol = results[0].protocol
    return (
        f"Protocol {describe_protocol(protocol)}.",
        *_supervision_notes(results),
        f"Accuracy on {_tested_images(results)} after the last epoch, mean ± sample standard "
        "deviation over all students.",
        *_spread_notes(results),
        f"Students: {share(protocol.fraction)} of the published epochs.",
        *_schedule_notes(results),
        *dict.fromkeys(
            f"{r.label}: {r.protocol.whole_steps} optimiser steps, a budget of our choice."
            for r in results
            if r.ipc is None
        ),
    )


def _tested_images(results: Sequence[EvaluationResult]) -> str:
    """Say which images the students of a table were tested on; one seed or several."""
    told = results[0].provenance
    parts = [told, *(part for part in told.values() if isinstance(part, dict))]
    validated = any(part.get("tested_on") == "validation" for part in parts)
    return "held-out training images, not the test images," if validated else "the test images"


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
