"""What the students of a row are trained on."""

from __future__ import annotations

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.candidate import (
    Candidate,
    candidate_from_set,
    candidate_from_table,
)
from geodm_lightning.methods import Method
from geodm_lightning.stages.run import Run


def candidate_of(run: Run, method: Method) -> Candidate:
    """Return what the students of one row are trained on."""
    if method.kind == "whole":
        return candidate_from_table(run.data.train, method=method.key, label=method.label)
    distilled = load_set(run.folder.distilled(method.key, is_main=method.is_main))
    return candidate_from_set(distilled, spec=run.data.spec, device=run.site.device)
