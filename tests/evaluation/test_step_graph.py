"""A captured training step makes the steps that are taken one by one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from geodm_lightning.evaluation.candidate import candidate_from_set
from geodm_lightning.evaluation.together import Course

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replayed_steps_are_those_taken_one_by_one(digits, make_set, tiny_a, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from step_graph import captured

    device = torch.device("cuda")
    candidate = candidate_from_set(make_set(), spec=digits.spec, device=device)
    course = Course(candidate, digits.test, replace(tiny_a, batch_size=100), seed=0)
    seconds, difference = captured(course, 3, device)
    assert seconds > 0
    assert difference < 1e-4
