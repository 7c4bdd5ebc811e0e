"""Probes of audits, scores and pages beside what those then do."""

import json

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.audit.options import ScoreOptions
from geodm_lightning.data.datamodule import held_out
from geodm_lightning.distilled.storage import load_set, save_set
from geodm_lightning.probes.audit import Passing, probe_audit
from geodm_lightning.probes.probe import Alone, ProbeSite
from geodm_lightning.probes.report import probe_report
from geodm_lightning.probes.scores import probe_scores
from geodm_lightning.stages.audit import audit
from geodm_lightning.stages.cohorts import num_done, num_students
from geodm_lightning.stages.distill import distill
from geodm_lightning.stages.evaluate import evaluate
from geodm_lightning.stages.report import report
from geodm_lightning.stages.score import score
from geodm_lightning.stages.score_cells import cells_of
from tests.audit.test_stages import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has sets and students, and rates of which one makes students diverge."""
    run = make_run(
        tmp_path_factory.mktemp("probed"), "scores.rates=[1,10,1e30]", "audit.features=trained"
    )
    distill(run)
    evaluate(run)
    return run


def probed(run, world=1):
    return run._replace(site=ProbeSite(torch.device("cpu"), "32-true", Alone(0, world)))


def counted(works):
    """Students still to be trained, as readers are told."""
    return sum(int(work.what.split()[0]) for work in works)


def test_what_passes_by_grows_with_its_number_and_distances_with_its_square():
    passing = Passing(images=100, embedding=3.0, radii=5.0, comparing=2.0, memory=1)
    assert passing.seconds(100) == 10
    assert passing.seconds(300) == pytest.approx(3 * (3 + 2) + 9 * 5)


def test_an_audit_is_probed_until_it_is_made(run):
    training, looking = probe_audit(probed(run))
    assert (training.stage, training.steps) == ("audit", 2)  # the cap of the schedule
    assert looking.steps == 10
    assert looking.what == f"compare 2 sets with {len(run.data.train)} real images"
    assert looking.disk == 2 * 10 * (1 + 3) * 64  # sets, classes, pictures of 8 × 8
    assert looking.seconds > 0
    audit(run)
    assert list(probe_audit(probed(run))) == []
    own = run.settings["audit"]
    other = run._replace(settings={**run.settings, "audit": {**own, "references": 9}})
    (again,) = probe_audit(probed(other))  # the network is there
    assert again.what == looking.what


def test_finished_students_of_a_score_are_taken_off(run, tmp_path):
    options = ScoreOptions.from_settings(run.settings)
    held = held_out(run.data.train, share=options.validation)
    rest = run.data.train.select((~held).nonzero().flatten())
    protocol = assembly.build_protocol(run.settings, run.data.spec)
    (row,) = (row for row in run.methods if row.is_main)
    trials = cells_of(run, row, rest=rest, protocol=protocol)
    total = sum(num_students(trial, options) for trial in trials)
    assert total == 5 * (3 + 2)
    assert counted(probe_scores(probed(run))) == total
    path = score(run)
    assert list(probe_scores(probed(run))) == []
    path.unlink()
    for trial in trials:
        assert num_done(trial, options, seed=run.seed) == num_students(trial, options)
        assert num_done(trial, options, seed=run.seed + 1) == 0
    assert counted(probe_scores(probed(run))) == 0
    own = run.folder.path / "students" / "scores" / row.key
    tested, chose = sorted((own / "test").iterdir()), sorted((own / "held_out_0.1").iterdir())
    tested[0].unlink()
    lost = [path for path in chose if "diverged" in json.loads(path.read_text())]
    for path in lost:
        path.unlink()
    works = list(probe_scores(probed(run)))
    assert counted(works) == 1 + len(lost)
    assert sum(work.steps for work in works) == (1 + len(lost)) * 3  # epochs of one batch
    alone = {work.what: work.steps for work in works}
    shared = {work.what: work.steps for work in probe_scores(probed(run, world=3))}
    assert {what: -(-steps // 3 // 3) * 3 for what, steps in alone.items()} == shared


@pytest.mark.slow
def test_a_page_is_probed_at_its_size(run):
    (work,) = probe_report(probed(run))
    page = report(run)
    written = sum(path.stat().st_size for path in (page, *run.folder.figures.iterdir()))
    assert work.disk == pytest.approx(written, rel=0.5)
    assert work.seconds > 0
    assert next(probe_report(probed(run))).disk == 0  # it is there and will be replaced


def test_sets_that_are_not_made_are_probed_as_if_they_were(run, tmp_path):
    fresh = make_run(tmp_path, "audit.features=random")
    (looking,) = probe_audit(probed(fresh))
    for name, is_main in (("geodm", True), ("random", False)):
        made = load_set(run.folder.distilled(name, is_main=is_main))
        save_set(fresh.folder.distilled(name, is_main=is_main), made)
    (same,) = probe_audit(probed(fresh))
    assert (looking.what, looking.steps, looking.disk) == (same.what, same.steps, same.disk)
