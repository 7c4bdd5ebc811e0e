"""Results of several seeds, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from geodm_lightning.evaluation.result import EvaluationResult
from geodm_lightning.types import InputError


def merge_results(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Join the results of several seeds of one method.

    Args:
        results: Results that differ in their seeds and provenance only.

    Returns:
        One result with the students of all seeds; its provenance maps each first seed to the
        provenance of that part.

    Raises:
        InputError: If there is nothing to merge, a student appears twice, or the results differ
            in method, data set, images per class, protocol, schedule, supervision, teachers,
            architecture, precision or the images they were tested on.
    """
    if not results:
        raise InputError("no results to merge; name at least one evaluated run")
    first = results[0]
    for result in results[1:]:
        _require_alike(first, result)
    provenance: Mapping[str, Any] = {str(part.seeds[0]): part.provenance for part in results}
    return replace(
        first,
        students=tuple(student for result in results for student in result.students),
        costs={seed: cost for result in results for seed, cost in result.costs.items()},
        geometries={seed: state for r in results for seed, state in r.geometries.items()},
        label_identities={s: labels for r in results for s, labels in r.label_identities.items()},
        provenance=first.provenance if len(results) == 1 else dict(provenance),
    )


def _require_alike(first: EvaluationResult, other: EvaluationResult) -> None:
    shared = ("method", "label", "dataset", "ipc", "num_images", "schedule_share", "teachers")
    for name in (*shared, "supervision", "architecture", "precision", "tested_on"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"cannot merge results of {name} {ours!r} and {theirs!r}")
    if first.protocol.digest() != other.protocol.digest():
        raise InputError(
            f"cannot merge {first.label} under protocol {first.protocol.digest()} with "
            f"{other.protocol.digest()}; evaluate both under one protocol"
        )
