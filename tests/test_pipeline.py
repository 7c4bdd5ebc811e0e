"""Whole runs on the digits: complete, resumable, killed, on two processes, refused."""

import json
import os
from fnmatch import fnmatch

import pytest
import torch

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.distillers.checkpoint import load_checkpoint
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.pipeline import run
from geodm_lightning.reporting.tracking import read_metrics
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_config, tiny_overrides
from tests.processes import finish, kill_when

SLOW_STEPS = ("distiller.num_iterations=60", "baselines=[]", "distiller.checkpoint_every=3")


def run_tiny(folder, *overrides):
    run(compose_config(*tiny_overrides(folder), *overrides))
    return path_of(folder)


def path_of(folder):
    return folder / "runs" / "tiny" / "0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_tiny(folder)


def test_the_first_step_waits_for_no_other_row(finished):
    """Herding trains a network before it selects, so what is learned comes before."""
    _, path = finished
    made = [path / name / "manifest.json" for name in ("distilled", "baselines/herding")]
    learned, selected = (manifest.stat().st_mtime_ns for manifest in made)
    assert learned < selected


def test_a_run_leaves_everything_the_house_promises(finished):
    _, path = finished
    for name in (
        "config.yaml",
        "environment.json",
        "results.json",
        "metrics.csv",
        "report.html",
        "table.md",
        "cost.md",
        "geometry.md",
        "checkpoints/last.ckpt",
        "distilled/manifest.json",
        "distilled/images.safetensors",
        "figures/accuracy.png",
    ):
        assert (path / name).stat().st_size > 0, name
    assert not [p for p in path.rglob("*") if "partial" in p.name]
    results = load_results(path / "results.json")
    keys = ["random", "herding", "dm", "control", "geodm", "whole"]
    assert [r.method for r in results] == keys
    assert all(len(r.students) == 2 for r in results)
    assert results[0].protocol.fraction == 0.003


def test_a_set_says_what_it_is(finished):
    distilled = load_set(finished[1] / "distilled")
    assert distilled.images.shape == (20, 1, 8, 8)
    assert distilled.labels.tolist() == [label for label in range(10) for _ in range(2)]
    manifest = distilled.manifest
    assert (manifest["label"], manifest["iterations"], manifest["schedule"]) == ("GeoDM", 6, "demo")
    assert manifest["geometry"]["curvature/hyperbolic"] < 0
    assert manifest["cost"]["seconds"] > 0
    random = load_set(finished[1] / "baselines" / "random").images
    assert random.min() >= 0
    assert random.max() <= 1


def test_results_tell_what_every_row_cost(finished):
    results = {r.method: r for r in load_results(finished[1] / "results.json")}
    assert results["random"].costs == {}
    for key in ("dm", "control", "geodm"):
        cost = results[key].costs["0"]
        spent = cost["component_seconds_per_iteration"]
        assert set(spent) == {"augment", "network", "geometry", "transport", "optimiser"}
        assert (spent["transport"] > 0) == (key != "dm")
        assert cost["component_peak_bytes"]["network"] > 0
        assert sum(spent.values()) < 2 * cost["seconds_per_iteration"]
    assert "Cost by component" in (finished[1] / "report.html").read_text()


def test_rows_can_be_added_later_and_others_are_kept(tmp_path):
    variant = "+variants.flat={geometry:{factors:[euclidean]}}"
    path = run_tiny(tmp_path, "baselines=[base]", "stages=[distill]")
    before = (path / "distilled" / "manifest.json").stat().st_mtime_ns
    run_tiny(tmp_path, "baselines=[base]", variant)
    assert (path / "distilled" / "manifest.json").stat().st_mtime_ns == before
    assert [r.method for r in load_results(path / "results.json")] == ["dm", "flat", "geodm"]
    other = "+variants.flat={geometry:{factors:[spherical]}}"
    with pytest.raises(InputError, match=r"baselines/flat was made with other settings: geometry"):
        run_tiny(tmp_path, "baselines=[base]", other)


def test_metrics_hold_every_term(finished):
    curves = read_metrics(finished[1] / "metrics.csv")["distill"]["geodm"]
    for key in ("loss", "loss/matching", "loss/transport", "loss/radius", "loss/entropy"):
        assert curves[f"distill/{key}"].steps == [2, 4, 6], key
    assert curves["distill/curvature/spherical"].values[-1] > 0


def test_a_finished_run_is_not_run_again(finished, capsys):
    folder, path = finished
    parts = [
        "distilled/images.safetensors",
        "checkpoints/last.ckpt",
        "baselines/dm/manifest.json",
        "results.json",
    ]
    before = [(path / part).stat().st_mtime_ns for part in parts]
    students = sorted((path / "students").rglob("*.json"))
    times = [student.stat().st_mtime_ns for student in students]
    run_tiny(folder)
    assert [(path / part).stat().st_mtime_ns for part in parts] == before
    assert [student.stat().st_mtime_ns for student in students] == times
    assert "GeoDM" in capsys.readouterr().out


def test_more_students_are_added_to_those_there_are(tmp_path):
    options = ("baselines=[]", "stages=[distill,evaluate]")
    path = run_tiny(tmp_path, *options, "schedule.max_students=1")
    (kept,) = (path / "students").rglob("*.json")
    time_of_first = kept.stat().st_mtime_ns
    run_tiny(tmp_path, *options, "schedule.max_students=3")
    assert len(load_results(path / "results.json")[0].students) == 3
    assert kept.stat().st_mtime_ns == time_of_first


def test_other_settings_are_refused_before_anything_changes(finished):
    folder, path = finished
    before = (path / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"ipc \(2 there, 3 now\).*name=tiny_2"):
        run_tiny(folder, "ipc=3")
    assert (path / "config.yaml").read_text() == before


def test_seeds_are_joined_in_one_table(tmp_path):
    run_tiny(tmp_path, "num_seeds=2", "baselines=[random]")
    results = load_results(tmp_path / "runs" / "tiny" / "results.json")
    assert [r.seeds for r in results] == [(0, 1), (0, 1)]
    sets = [load_set(tmp_path / "runs" / "tiny" / seed / "distilled").images for seed in "01"]
    assert not torch.equal(*sets)


def test_a_damaged_set_is_named_and_not_built_on(tmp_path):
    path = run_tiny(tmp_path, "stages=[distill]", "baselines=[random]")
    images = path / "baselines" / "random" / "images.safetensors"
    images.write_bytes(images.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"damaged distilled set .*random"):
        run_tiny(tmp_path, "baselines=[random]")
    assert not (path / "results.json").exists()


def test_a_dry_run_takes_two_steps_of_each_stage(tmp_path):
    run_tiny(tmp_path, "dry_run=true", "distiller.num_iterations=1000", "baselines=[base,whole]")
    path = tmp_path / "runs" / "tiny_dry_run" / "0"
    assert load_set(path / "distilled").manifest["iterations"] == 2
    assert {s.num_steps for r in load_results(path / "results.json") for s in r.students} == {2}
    assert (path / "report.html").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ipc=140"], r"ipc=140 is more than the 139 training images of class '8' of digits"),
        (["geometry.factors=[euclidean,toroidal]"], r"toroidal.*euclidean, hyperbolic, spherical"),
        (["geometry.curvature.hyperbolic=-1"], r"-1"),
        (["geometry.curvature.spherical=nan"], r"nan"),
        (["network.name=resnet1800"], r"unknown network 'resnet1800'.*resnet18"),
        (["data.name=mnits"], r"mnits.*mnist"),
        (["data=mnist", "network.depth=null"], r"mnist.*data.root"),
        (["distiller.augmentation.strategy=blur"], r"unknown augmentation 'blur'.*crop"),
        (["distiller.factor=3"], r"factor 3 does not divide"),
        (["evaluation.student={name:resnet1800}"], r"unknown network 'resnet1800'.*resnet18"),
        (["+variants.odd={transport:{epsilon:0}}"], r"transport.epsilon must be .*above 0, got 0"),
        (["+variants.odd={distiller:{factor:3}}"], r"factor 3 does not divide"),
        (["+variants.odd={geometry:{factors:[toroidal]}}"], r"toroidal.*euclidean, hyperbolic"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(tmp_path, overrides, message):
    overrides = [*overrides, f"data.root={tmp_path}/none"]
    with pytest.raises(InputError, match=message) as caught:
        run_tiny(tmp_path, *overrides)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path):
    every = ("distiller.checkpoint_every=1", "distiller.log_every=1")
    explosive = ("baselines=[]", "distiller.image_optimizer.lr=1e30", *every)
    with pytest.raises(InputError, match="not finite at iteration") as caught:
        run_tiny(tmp_path, *explosive)
    assert "lower distiller.image_optimizer.lr" in str(caught.value)
    path = tmp_path / "runs" / "tiny" / "0"
    good = load_checkpoint(path / "checkpoints" / "last.ckpt")
    assert 1 <= good["iteration"] < 6
    assert good["pixels"].isfinite().all()
    assert not (path / "distilled").exists()


def test_killed_while_distilling_it_ends_with_the_same_images(tmp_path):
    whole = run_tiny(tmp_path / "whole", *SLOW_STEPS, "stages=[distill]")
    killed = [*tiny_overrides(tmp_path / "killed"), *SLOW_STEPS, "stages=[distill]"]
    path = path_of(tmp_path / "killed")
    checkpoint = path / "checkpoints" / "last.ckpt"
    kill_when(checkpoint.exists, tmp_path / "log.txt", *killed)
    assert load_checkpoint(checkpoint)["iteration"] < 60
    assert not (path / "distilled").exists()
    code, output = finish(tmp_path / "log.txt", *killed)
    assert code == 0, output
    expected, resumed = load_set(whole / "distilled"), load_set(path / "distilled")
    assert torch.equal(resumed.images, expected.images)
    assert resumed.manifest["geometry"] == expected.manifest["geometry"]
    curves = [read_metrics(at / "metrics.csv")["distill"]["geodm"] for at in (whole, path)]
    assert curves[0] == curves[1]


def test_killed_while_evaluating_no_student_is_lost_or_changed(tmp_path):
    options = ["baselines=[random]", "schedule.max_students=4", "schedule.max_student_epochs=20"]
    whole = run_tiny(tmp_path / "whole", *options)
    killed = [*tiny_overrides(tmp_path / "killed"), *options]
    path, log = path_of(tmp_path / "killed"), tmp_path / "log.txt"

    def finished() -> list[str]:  # unlike rglob a walk goes on where a folder is renamed meanwhile
        return [n for *_, names in os.walk(path) for n in names if fnmatch(n, "student-*.json")]

    kill_when(lambda: len(finished()) >= 2, log, *killed)
    kept = {p: p.stat().st_mtime_ns for p in path.rglob("student-*.json")}
    code, output = finish(log, *killed)
    assert code == 0, output
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    expected, resumed = (load_results(at / "results.json") for at in (whole, path))
    assert [r.accuracies for r in resumed] == [r.accuracies for r in expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("strategy=dsdm", "matching.history.start_share=0", "geometry=adversarial"),
        ("strategy=ncfm_sampler", "matching.base.num_frequencies=16", "geometry=from_real"),
    ],
    ids=["history and adversary", "sampler and fitted geometry"],
)
def test_what_is_learned_beside_the_images_is_alike_on_two_processes(tmp_path, options):
    """Prototypes are kept by class and gathered; sampler and geometry stay equal everywhere."""
    kept = [item for item in TINY if item.startswith("distiller")]
    common = [*options, *kept, "pool.count=2", "baselines=[]", "stages=[distill]"]
    devices = ["trainer.devices=2", "trainer.accelerator=cpu"]
    two = [*tiny_overrides(tmp_path / "two"), *common, *devices]
    code, output = finish(tmp_path / "log.txt", *two)
    assert code == 0, output
    path = run_tiny(tmp_path / "one", *common)
    one, two = (
        load_checkpoint(at / "checkpoints" / "last.ckpt")
        for at in (path, path_of(tmp_path / "two"))
    )
    for part in ("pixels", "matching", "history"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-3, atol=1e-4)
    assert one["history"] or one["matching"]


def test_two_processes_give_the_images_of_one(tmp_path):
    devices = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
    options = ["baselines=[random,base]", "geometry.learn_weights=true"]
    overrides = [*tiny_overrides(tmp_path / "two"), *options, *devices]
    code, output = finish(tmp_path / "log.txt", *overrides)
    assert code == 0, output
    one, two = run_tiny(tmp_path / "one", *options), path_of(tmp_path / "two")
    for name in ("distilled", "baselines/dm", "baselines/random"):
        expected, found = load_set(one / name), load_set(two / name)
        torch.testing.assert_close(found.images, expected.images, rtol=1e-3, atol=1e-4)
    geometry = [load_set(path / "distilled").manifest["geometry"] for path in (one, two)]
    assert geometry[1] == pytest.approx(geometry[0], rel=1e-4)
    assert load_set(two / "distilled").manifest["cost"]["processes"] == 2
    results = [load_results(path / "results.json") for path in (one, two)]
    assert [r.method for r in results[1]] == ["random", "dm", "geodm"]
    assert (
        results[1][0].accuracies == results[0][0].accuracies
    )  # the same images, the same students


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+experiment=cifar11"], "error: unknown experiment 'cifar11'; choose one of "),
        (["matching=wasserstein"], "error: unknown matching 'wasserstein'; choose one of dm, dsdm"),
        (["ipc=0"], "error: ipc must be a whole number of at least 1, got 0"),
        (["+experiment=imagenet1k_ipc10"], "error: imagenet1k: not found: looked for"),
        (["run_dir=/proc/nowhere"], "error: cannot write /proc/nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path, arguments, message):
    code, output = finish(tmp_path / "log.txt", *arguments)
    assert code == 2
    assert output.startswith(message)
    assert output.count("\n") == 1


def test_the_list_is_printed_without_work(tmp_path):
    code, output = finish(tmp_path / "log.txt", "--list")
    assert code == 0
    assert output.splitlines()[0].split()[0] == "cifar10_ipc1"


def test_environment_names_versions_and_machine(finished):
    environment = json.loads((finished[1] / "environment.json").read_text())
    assert environment["libraries"]["torch"].startswith(torch.__version__.split("+")[0])
    assert environment["cores"] >= 1
    assert environment["device"]
