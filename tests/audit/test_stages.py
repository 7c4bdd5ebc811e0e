"""Stages audit and score on the digits: copies, references, held-out rates, resuming, pages."""

import json
import re
from pathlib import Path

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.audit.coverage import measure_coverage
from geodm_lightning.audit.options import AuditOptions
from geodm_lightning.audit.robustness import augmentation_robust_score, label_robust_score
from geodm_lightning.data.datamodule import held_out
from geodm_lightning.distilled.storage import load_set, save_set
from geodm_lightning.pipeline import folder_of, prepare
from geodm_lightning.processes import Processes
from geodm_lightning.provenance import provenance
from geodm_lightning.reporting.audit import audit_sections
from geodm_lightning.reporting.score import score_sections
from geodm_lightning.site import open_site
from geodm_lightning.stages.audit import audit
from geodm_lightning.stages.audit_images import feature_network, real_classes, seen_set
from geodm_lightning.stages.distill import distill
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.score import score
from geodm_lightning.stages.score_cells import cells_of
from geodm_lightning.types import InputError
from tests.experiment import compose_config, compose_settings, tiny_overrides

SMALL = (
    "baselines=[random]",
    "scores.rates=[1,10]",
    "scores.weight=0.3",
    "audit.features=random",
    "audit.neighbours=3",
)
KEYS = ("precision", "recall", "density", "coverage", "mean_distance", "vendi")


def make_run(folder, *overrides):
    settings = compose_settings(*tiny_overrides(folder), *SMALL, *overrides)
    data = assembly.build_data(settings, torch.device("cpu"))
    site = open_site("cpu", precision="32-true", threads=1, processes=Processes())
    run = Run(settings, folder_of(settings, settings["seed"]), data, site)
    run.folder.open(settings, provenance(site.device))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("audited"))
    distill(run)
    return run


@pytest.fixture(scope="module")
def audited(run):
    return json.loads(audit(run).read_text())


@pytest.fixture(scope="module")
def scored(run):
    return json.loads(score(run).read_text())


def row_of(found, method):
    return next(row for row in found["rows"] if row["method"] == method)


def test_random_real_images_are_all_copies_and_learned_ones_are_none(run, audited):
    assert [row["method"] for row in audited["rows"]] == ["geodm", "random"]
    random, own = row_of(audited, "random"), row_of(audited, "geodm")
    assert (random["nearest"]["copies"], random["nearest"]["checked"]) == (20, 20)
    assert random["nearest"]["pixels"]["median_relative"] == 0
    assert random["nearest"]["features"]["same_class"] == 1
    assert own["nearest"]["copies"] == 0
    images = load_set(run.folder.distilled("random", is_main=False))
    for one in random["shown"]:
        assert one["distances"][0] == 0
        source = run.data.train.gather(torch.tensor(one["nearest"][:1]))
        assert torch.equal(source, images.unit_images(torch.tensor([one["image"]])))
    assert sorted(one["label"] for one in random["shown"]) == list(range(10))


def test_a_planted_copy_is_found(run, tmp_path):
    planted = make_run(tmp_path, "baselines=[]")
    distilled = load_set(run.folder.distilled("geodm", is_main=True))
    images = distilled.images.clone()
    images[7] = run.data.train.gather(torch.tensor([777]))
    save_set(planted.folder.distilled("geodm", is_main=True), distilled._replace(images=images))
    (row,) = json.loads(audit(planted).read_text())["rows"]
    assert row["nearest"]["copies"] == 1
    assert (row["shown"][0]["image"], row["shown"][0]["nearest"][0]) == (7, 777)


def test_coverage_is_the_mean_over_the_classes(run, audited):
    chosen = AuditOptions.from_settings(run.settings)
    network = feature_network(run, chosen)
    distilled = load_set(run.folder.distilled("geodm", is_main=True))
    seen = seen_set(run, distilled, network)
    found = [
        measure_coverage(
            real.seen.features, seen.features[distilled.labels == real.label], neighbours=3
        )
        for real in real_classes(run, network, chosen)
    ]
    clouds = row_of(audited, "geodm")["clouds"]
    for key in ("precision", "density", "coverage"):
        mean = sum(getattr(one, key) for one in found) / 10
        assert clouds[key] == pytest.approx(mean)


def test_every_real_image_passes_by_once(run):
    chosen = AuditOptions.from_settings(run.settings)
    passed = list(real_classes(run, feature_network(run, chosen), chosen))
    for real in passed:
        assert bool((run.data.train.labels[real.indices] == real.label).all())
        pixels = run.data.train.gather(real.indices).flatten(1)
        assert torch.equal(real.seen.pixels, pixels)
    indices = torch.cat([real.indices for real in passed])
    assert torch.equal(indices, torch.arange(len(run.data.train)))


def test_random_images_lie_within_their_references(audited):
    """The baseline is one more draw of what the references are."""
    references, clouds = audited["references"]["2"], row_of(audited, "random")["clouds"]
    assert references["precision"] == {"mean": 1, "std": 0}
    assert clouds["precision"] == 1
    for key in KEYS:
        assert references[key]["std"] >= 0
    assert references["density"]["mean"] == pytest.approx(4 / 3, abs=0.5)  # (k + 1) / k


def test_an_audit_is_made_once_and_again_for_another_set(run, audited):
    path = run.folder.path / "audit.json"
    before = path.stat().st_mtime_ns
    assert audit(run) == path
    assert path.stat().st_mtime_ns == before
    other = {**run.settings, "audit": {**run.settings["audit"], "neighbours": 4}}
    audit(run._replace(settings=other))
    assert json.loads(path.read_text())["identity"] != audited["identity"]
    audit(run)
    assert json.loads(path.read_text())["rows"] == audited["rows"]


def test_scores_are_the_formulas_of_their_cells(scored):
    (row,) = scored["rows"]
    cells = {cell["name"]: cell for cell in row["cells"]}
    reached = {name: cell["accuracies"] for name, cell in cells.items()}
    assert len(cells) == 5
    assert all(len(accuracies) == 2 for accuracies in reached.values())
    label = label_robust_score(
        whole=reached["whole/hard/augmented"],
        hard=reached["set/hard/augmented"],
        random=reached["random/hard/augmented"],
        weight=0.3,
    )
    augmentation = augmentation_robust_score(
        augmented=reached["set/hard/augmented"],
        random_augmented=reached["random/hard/augmented"],
        plain=reached["set/hard/plain"],
        random_plain=reached["random/hard/plain"],
    )
    assert row["label_robust"] == pytest.approx(label._asdict())
    assert row["augmentation_robust"] == pytest.approx(augmentation._asdict())
    for cell in cells.values():
        assert set(cell["chosen_on"]) == {"0.01", "0.1"}
        best = max(cell["chosen_on"].values())
        assert cell["chosen_on"][f"{cell['rate']:g}"] == best


def test_a_rate_at_which_students_diverge_loses(run, scored, tmp_path):
    """Everything else is as if it had not been among the rates, also when started again."""
    wild = make_run(tmp_path, "scores.rates=[1,10,1e30]")
    own = run.folder.distilled("geodm", is_main=True)
    save_set(wild.folder.distilled("geodm", is_main=True), load_set(own))
    path = score(wild)
    (row,), (before,) = json.loads(path.read_text())["rows"], scored["rows"]
    assert [cell.pop("chosen_on")["1e+28"] for cell in row["cells"]] == [None] * 5
    assert row == {
        **before,
        "cells": [{k: v for k, v in c.items() if k != "chosen_on"} for c in before["cells"]],
    }
    (section,) = score_sections(wild.folder.path)
    assert section.count("diverged at rate 1e+28") == 5
    records = {p: p.stat().st_mtime_ns for p in wild.folder.path.rglob("student-*.json")}
    path.unlink()
    score(wild)
    assert {p: p.stat().st_mtime_ns for p in wild.folder.path.rglob("student-*.json")} == records


def test_rates_at_which_all_students_diverge_are_refused(run, tmp_path):
    wild = make_run(tmp_path, "scores.rates=[1e30,1e31]")
    own = run.folder.distilled("geodm", is_main=True)
    save_set(wild.folder.distilled("geodm", is_main=True), load_set(own))
    with pytest.raises(InputError, match=r"every rate of scores.rates, 1e\+30, 1e\+31 times"):
        score(wild)
    assert not (wild.folder.path / "scores.json").exists()


def test_rates_do_not_hear_of_test_images(run, scored, tmp_path):
    """With the test labels turned round, accuracies change and the choice does not."""
    turned = make_run(tmp_path)
    turned.data.test.labels = 9 - turned.data.test.labels
    own = run.folder.distilled("geodm", is_main=True)
    save_set(turned.folder.distilled("geodm", is_main=True), load_set(own))
    found = json.loads(score(turned).read_text())["rows"][0]["cells"]
    before = scored["rows"][0]["cells"]
    assert [cell["chosen_on"] for cell in found] == [cell["chosen_on"] for cell in before]
    assert [cell["rate"] for cell in found] == [cell["rate"] for cell in before]
    assert [cell["accuracies"] for cell in found] != [cell["accuracies"] for cell in before]


def test_rates_are_chosen_on_images_that_no_reference_trains_on(run):
    held = held_out(run.data.train, share=0.1)
    unseen = run.data.train.gather(held.nonzero().flatten()).flatten(1)
    rest = run.data.train.select((~held).nonzero().flatten())
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    row = next(row for row in run.methods if row.is_main)
    trials = {trial.name: trial for trial in cells_of(run, row, rest=rest, protocol=protocol)}
    whole = trials["whole/hard/augmented"]
    assert len(whole.chooser.labels) + len(unseen) == len(whole.candidate.labels)
    random = trials["random/hard/augmented"].candidate
    mean, std = run.data.spec.mean[0], run.data.spec.std[0]
    images = (random.fetch(torch.arange(len(random.labels))) * std + mean).flatten(1)
    assert float(torch.cdist(images, unseen).min()) > 0.1
    assert trials["set/hard/plain"].protocol.augmentation == "none"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("scores.validation=0.999", "leaves nothing to train on of class"),
        ("scores.validation=0.98", r"leaves \d training images of class '\d' for random sets of 4"),
    ],
)
def test_holding_out_too_much_is_refused_before_any_work(tmp_path, said, reason):
    stages = "stages=[distill,evaluate,score]"
    with pytest.raises(InputError, match=reason):
        prepare(compose_config(*tiny_overrides(tmp_path), *SMALL, stages, "ipc=4", said))
    assert not (tmp_path / "runs").exists()


def test_a_killed_score_trains_only_what_is_missing(run, scored):
    folder = run.folder.path / "students" / "scores"
    records = {path: path.stat().st_mtime_ns for path in folder.rglob("student-*.json")}
    assert len(records) == 2 * 2 * (2 + 2)  # images, augmentation; rates and students
    lost = sorted(records)[0]
    lost.unlink()
    (run.folder.path / "scores.json").unlink()
    again = json.loads(score(run).read_text())
    assert again["rows"] == scored["rows"]
    changed = [path for path in records if path.stat().st_mtime_ns != records[path]]
    assert changed == [lost]


def test_students_on_all_real_images_are_shared_by_runs(run, scored, tmp_path):
    cache = run.settings["cache_dir"]
    before = shared_records(cache)
    assert len(before) == 4
    other = make_run(tmp_path, f"cache_dir={cache}")
    save_set(
        other.folder.distilled("geodm", is_main=True),
        load_set(run.folder.distilled("random", is_main=False))._replace(
            manifest=load_set(run.folder.distilled("geodm", is_main=True)).manifest
        ),
    )
    found = json.loads(score(other).read_text())["rows"][0]
    after = shared_records(cache)
    assert after == before
    assert found["cells"][-1] == scored["rows"][0]["cells"][-1]


def shared_records(cache):
    return {p: p.stat().st_mtime_ns for p in Path(cache, "whole").rglob("student-*.json")}


def test_pages_show_every_number_and_nothing_without_files(run, audited, scored, tmp_path):
    assert audit_sections(tmp_path) == []
    assert score_sections(tmp_path) == []
    text = "".join([*audit_sections(run.folder.path), *score_sections(run.folder.path)])
    for row in audited["rows"]:
        assert row["label"] in text
        assert f"{100 * row['clouds']['coverage']:.1f}" in text
        assert f"{row['nearest']['pixels']['median_relative']:.2f}" in text
    assert text.count("data:image/png") == 20  # one strip a class and set
    for key in ("label_robust", "augmentation_robust"):
        assert f"{100 * scored['rows'][0][key]['value']:.1f}" in text
    assert "never on test images" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("name", "stage", "sections"),
    [("audit.json", audit, audit_sections), ("scores.json", score, score_sections)],
)
def test_damaged_files_are_named(run, audited, scored, name, stage, sections):
    path = run.folder.path / name
    whole = path.read_text()
    path.write_text(whole[:50])
    try:
        for read in (lambda: stage(run), lambda: sections(run.folder.path)):
            with pytest.raises(InputError, match=rf"damaged .*{name}"):
                read()
    finally:
        path.write_text(whole)
