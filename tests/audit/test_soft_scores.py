"""Scores of sets with soft labels: teachers for both sides, labels of their own for one."""

import json
from dataclasses import replace

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.audit.robustness import augmentation_robust_score, label_robust_score
from geodm_lightning.data.batches import fetch_from_table
from geodm_lightning.data.views import draw, render
from geodm_lightning.evaluation.views import view_recipe
from geodm_lightning.methods import Method
from geodm_lightning.pipeline import run as run_pipeline
from geodm_lightning.stages.score import scores_of
from geodm_lightning.stages.trials import Bench, TrialResult, without_augmentation
from tests.audit.test_stages import make_run
from tests.experiment import compose_config, compose_settings, tiny_overrides

SEEN = ("augmented", "plain")
TAUGHT = (
    "baselines=[]",
    "evaluation=protocol_edc_digits",
    "supervision=soft",
    "teachers=trained_small",
    "teachers.pool=[{source: trained, name: convnet, depth: 3, width: 8}]",
    "teachers.strict=false",
    "schedule.max_teacher_steps=3",
    "scores.rates=[1]",
)


def reached(path):
    (row,) = json.loads(path.read_text())["rows"]
    return row, {cell["name"]: cell["accuracies"] for cell in row["cells"]}


@pytest.mark.slow
def test_teachers_label_both_sides(tmp_path):
    overrides = (*tiny_overrides(tmp_path), *TAUGHT, "stages=[distill,score]")
    run_pipeline(compose_config(*overrides))
    row, cells = reached(tmp_path / "runs" / "tiny" / "0" / "scores.json")
    name = row["supervision"]
    assert name != "hard"
    assert row["random_supervision"] == name
    assert {cell for cell in cells if "hard" in cell} == {
        "set/hard/augmented",
        "whole/hard/augmented",
    }
    assert {f"{side}/{name}/{seen}" for side in ("set", "random") for seen in SEEN} < set(cells)


@pytest.mark.parametrize("taught", ["hard", "soft"])
def test_every_cell_takes_its_place(taught):
    """Cells whose accuracies all differ: one in another's place would be noticed."""
    names = ["whole/hard/augmented", "set/hard/augmented"]
    names += [f"{images}/{taught}/{seen}" for images in ("set", "random") for seen in SEEN]
    reached = {
        name: [0.1 + 0.07 * i, 0.11 + 0.07 * i] for i, name in enumerate(dict.fromkeys(names))
    }
    settings = compose_settings("scores.weight=0.3", "scores.augmentation_weight=0.2")
    bench = Bench(None, None, ScoreOptions.from_settings(settings), 0, None)
    row = Method("m", "M", "imported", settings)
    results = {name: TrialResult(name, 0.1, {"0.1": 0.5}, a) for name, a in reached.items()}
    found = scores_of(row, results, bench)
    label = label_robust_score(
        whole=reached["whole/hard/augmented"],
        hard=reached["set/hard/augmented"],
        soft=reached[f"set/{taught}/augmented"] if taught == "soft" else None,
        random=reached[f"random/{taught}/augmented"],
        weight=0.3,
    )
    augmentation = augmentation_robust_score(
        augmented=reached[f"set/{taught}/augmented"],
        random_augmented=reached[f"random/{taught}/augmented"],
        plain=reached[f"set/{taught}/plain"],
        random_plain=reached[f"random/{taught}/plain"],
        weight=0.2,
    )
    assert found["label_robust"] == label._asdict()
    assert found["augmentation_robust"] == augmentation._asdict()
    assert found["supervision"] == found["random_supervision"] == taught


@pytest.mark.parametrize("evaluation", ["protocol_a", "protocol_c", "protocol_edc_digits"])
def test_without_augmentation_images_are_seen_as_they_are(tmp_path, evaluation):
    run = make_run(tmp_path, f"evaluation={evaluation}")
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    plain = without_augmentation(protocol)
    assert plain.augmentation == "none"
    assert plain.cutmix_probability == 0
    changed = {"augmentation": protocol.augmentation, "views": protocol.views}
    same = replace(plain, **changed, cutmix_probability=protocol.cutmix_probability)
    assert same == protocol
    if protocol.views is None:
        return
    fetch, chosen = fetch_from_table(run.data.train), torch.arange(0, 200, 7)
    recipe = view_recipe(plain, run.data.spec._replace(flip=True))
    views = draw(recipe, seed=0, epoch=3, indices=chosen, num_images=200)
    seen = render(fetch, chosen, views, recipe)
    torch.testing.assert_close(seen, fetch(chosen), rtol=0, atol=1e-6)
    assert bool((views.shares == 1).all())


def test_settings_are_composed_with_scores_and_audit():
    for name in ("none", "robust"):
        settings = compose_settings(f"scores={name}")
        assert settings["scores"] == {**compose_settings()["scores"], "name": name}
