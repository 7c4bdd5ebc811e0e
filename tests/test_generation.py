"""Whole runs that sample, relabel and judge: complete, resumed, killed, shared, refused."""

import hashlib
import json
import re
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.table import TensorTable
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.pipeline import run
from geodm_lightning.reporting.tracking import read_metrics
from geodm_lightning.stages.sets import gathered
from geodm_lightning.types import LabelledImages
from tests import processes
from tests.experiment import compose_config, generative_overrides

UP_TO_STUDENTS = "stages=[distill,relabel,evaluate]"
SUPERVISIONS = ["hard", "lia", "lia_otm"]
ONE_BY_ONE = "generator.batch_size=1"  # no image shares its batch, so not even rounding differs


def run_tiny(folder, *overrides):
    run(compose_config(*generative_overrides(folder), *overrides))
    return path_of(folder)


def path_of(folder):
    return folder / "runs" / "tiny" / "0"


def log_of(folder):
    return folder / "output.txt"


def finish(folder, *overrides):
    return processes.finish(log_of(folder), *generative_overrides(folder), *overrides)


def kill_when(ready, folder, *overrides):
    processes.kill_when(ready, log_of(folder), *generative_overrides(folder), *overrides)


def digests(folder):
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_tiny(folder)


def test_three_sets_are_judged_under_three_supervisions(finished):
    _, path = finished
    cells = [(r.method, r.supervision.name) for r in load_results(path / "results.json")]
    assert cells == [(row, s) for row in ("random", "unguided", "otg") for s in SUPERVISIONS]
    assert all(len(r.students) == 2 for r in load_results(path / "results.json"))


def test_sets_are_eight_bits_and_say_what_made_them(finished):
    folder, path = finished
    for row in ("distilled", "baselines/unguided"):
        made = load_set(path / row)
        assert (made.images.dtype, tuple(made.images.shape)) == (torch.uint8, (20, 1, 8, 8))
        assert made.labels.tolist() == [label for label in range(10) for _ in range(2)]
        assert (made.manifest["factor"], made.manifest["cost"]["images"]) == (1, 20)
        assert made.manifest["generator"]["num_steps"] == 4
        assert made.images.float().std() > 20  # not one grey
    assert made.manifest["cost"]["guidance_seconds"] == 0
    assert load_set(path / "distilled").manifest["cost"]["guidance_seconds"] > 0
    assert load_set(path / "baselines" / "random").images.is_floating_point()  # of 16 levels
    assert not list(folder.rglob("*partial*"))


def test_a_run_tells_of_guidance_teachers_and_every_cell(finished):
    _, path = finished
    curves = read_metrics(path / "metrics.csv")["distill"]["otg"]
    for key in ("transport/cost", "transport/plan_entropy", "deviation/push"):
        assert curves[f"distill/{key}"].steps == [10, 20], key
    told = json.loads((path / "labels" / "agreement.json").read_text())
    assert list(told) == [
        "real images",
        "Random real images",
        "Diffusion, unguided",
        "OT-guided diffusion",
    ]
    assert told["real images"]["num_images"] == 200
    lines = (path / "table.md").read_text().splitlines()
    head, _, *rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3
    assert all(label in head for label in ("Hard labels", "LIA", "LIA + OTM"))
    assert all(row.count("±") == 3 for row in rows)


def test_a_second_start_changes_no_file(finished):
    folder, path = finished
    before = digests(folder)
    kept = [p for p in before if p.suffix in (".safetensors", ".bin", ".ckpt")]
    kept += [path / "results.json", *path.rglob("student-*.json")]
    times = [p.stat().st_mtime_ns for p in kept]
    run_tiny(folder)
    assert digests(folder) == before
    assert [p.stat().st_mtime_ns for p in kept] == times


def test_more_images_leave_the_earlier_ones_as_they_were(finished, tmp_path):
    """Other batches round otherwise: by one grey level at most."""
    folder, path = finished
    options = ("ipc=3", "generator.batch_size=7", "stages=[distill]", "baselines=[base]")
    more = run_tiny(tmp_path, *options, f"cache_dir={folder}/cache")
    for row in ("distilled", "baselines/unguided"):
        few, many = (
            load_set(at / row).images.short().unflatten(0, (10, -1)) for at in (path, more)
        )
        assert (many[:, :2] - few).abs().max() <= 1
        assert not torch.equal(many[:, 2], many[:, 1])


def test_rows_of_guidance_differ_and_none_at_all_is_no_guidance(finished, tmp_path):
    influence = "{network: {name: convnet, depth: 3, width: 4}, epochs: [0, 1], num_real: 4, "
    influence += "lr: 0.01, momentum: 0.9, weight_decay: 0.0, batch_size: 64, scale: 5.0, "
    influence += "window: [0.6, 0.9]}"
    nothing = "{transport: {scale: 0.0}, deviation: {scale: 0.0}}"
    path = run_tiny(
        tmp_path,
        "variants=guidance",
        f"+variants.influence={{guidance: {{influence: {influence}}}}}",
        f"+variants.zero={{guidance: {nothing}}}",
        f"cache_dir={finished[0]}/cache",
        "baselines=[base]",
        "stages=[distill]",
        ONE_BY_ONE,
    )
    sets = {at.name: load_set(at).images for at in (path / "baselines").iterdir()}
    sets["otg"] = load_set(path / "distilled").images
    assert torch.equal(sets.pop("zero"), sets["unguided"])
    assert len({images.numpy().tobytes() for images in sets.values()}) == 7, list(sets)
    first = [sets[name].unflatten(0, (10, 2))[:, 0] for name in ("unguided", "deviation")]
    assert torch.equal(*first)  # there is nothing to deviate from yet


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same(tmp_path):
    options = ("generator.training.transformer.recipe.num_steps=250", "baselines=[base]")
    options += (
        "schedule.max_student_epochs=12",
        "schedule.max_students=1",
        ONE_BY_ONE,
        UP_TO_STUDENTS,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected, path = run_tiny(whole, *options), path_of(killed)
    stages = {
        "training": lambda: any(killed.glob("cache/diffusion/*/last.ckpt")),
        "sampling": lambda: any(any(p.read_bytes()) for p in path.rglob("checksums.bin")),
        "labelling": lambda: any(path.rglob("epoch_*")),
        "judging": lambda: any(path.rglob("student-*.json")),
    }
    kept = {}
    for ready in stages.values():
        kill_when(ready, killed, *options)
        finished = [p for p in path.rglob("*") if p.name.startswith(("epoch_", "student-"))]
        assert all(p.stat().st_mtime_ns == kept.get(p, p.stat().st_mtime_ns) for p in finished)
        kept |= {p: p.stat().st_mtime_ns for p in finished}
    assert 1 <= len(list(path.rglob("student-*.json"))) < 6
    code, output = finish(killed, *options)
    assert code == 0, output
    assert all(p.stat().st_mtime_ns == time_of for p, time_of in kept.items())
    assert same_tensors(whole, killed, "cache/diffusion/*/*.safetensors") == 1
    assert same_tensors(expected, path, "**/images.safetensors") == 2
    assert same_tensors(expected, path, "labels/**/epoch_*") == 24
    assert accuracies(path) == accuracies(expected)


def test_two_processes_end_with_what_one_does(tmp_path):
    options = ("generator.batch_size=5", "baselines=[base]", UP_TO_STUDENTS)
    one, two = run_tiny(tmp_path / "one", *options), path_of(tmp_path / "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = {}
    for rank in "01":
        log = tmp_path / f"output{rank}.txt"
        joined = {**place, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        arguments = (*generative_overrides(tmp_path / "two"), *options, "trainer.devices=2")
        started[log] = processes.start(log, *arguments, **joined)
    for log, process in started.items():
        process.join(120)
        assert process.exitcode == 0, log.read_text()
    assert same_tensors(one, two, "**/images.safetensors") == 2
    assert same_tensors(one, two, "labels/**/epoch_*") == 6
    assert accuracies(two) == accuracies(one)
    cost = load_set(two / "distilled").manifest["cost"]
    assert (cost["processes"], cost["images"]) == (2, 20)


def same_tensors(one, two, pattern):
    """Check that the files of two folders that fit a pattern hold the same; return how many."""
    first, second = (
        {str(p.relative_to(at)): load_file(p) for p in sorted(at.glob(pattern))}
        for at in (one, two)
    )
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    return len(first)


def accuracies(path):
    return [(r.key, r.supervision.name, r.accuracies) for r in load_results(path / "results.json")]


@pytest.mark.slow
def test_teachers_asked_online_teach_the_same(finished, tmp_path):
    options = ("schedule.max_teacher_steps=80", "schedule.max_student_epochs=60", "ipc=4")
    options += ("baselines=[random]", "schedule.max_students=1", UP_TO_STUDENTS)
    options += ("~supervision.hard", "~supervision.lia_otm", f"cache_dir={finished[0]}/cache")
    stored, online = (
        run_tiny(tmp_path / labels, *options, f"teachers.labels={labels}")
        for labels in ("store", "online")
    )
    for (_, _, before), (_, _, now) in zip(accuracies(stored), accuracies(online), strict=True):
        assert now == pytest.approx(before, abs=0.02)  # labels of the store are of 16 bits
    assert accuracies(stored)[0][2][0] > 0.2  # real images are learned
    assert [p.name for p in (online / "labels").iterdir()] == ["agreement.json"]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run whose results are not there yet."""
    shutil.copytree(finished[0], tmp_path / "copy")
    (path_of(tmp_path / "copy") / "results.json").unlink()
    return tmp_path / "copy"


def spoil_part(path):
    part = path / "labels" / "otg" / "aligned" / "epoch_00001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    for student in (path / "students" / "otg").iterdir():
        student.unlink()


def lose_part(path):
    (path / "labels" / "otg" / "aligned" / "epoch_00001.safetensors").unlink()


def change_teacher(path):
    for kept in (path.parents[2] / "cache" / "teachers").glob("*/network_00.ckpt"):
        state = load_checkpoint(kept)
        state["final"]["classifier.bias"] += 1.0
        save_checkpoint(kept, state)


@pytest.mark.parametrize(
    ("harm", "stages", "message"),
    [
        (lose_part, "evaluate", r"labels of 1 epochs of OT-guided diffusion are not in .*relabel"),
        (spoil_part, "evaluate", r"damaged label store: .*otg.*epoch_00001.*relabel again"),
        (change_teacher, "relabel", r"label store .* was made with another teachers.*delete it"),
        (change_teacher, "evaluate", r"label store .* was made with another teachers.*delete it"),
    ],
)
def test_labels_that_do_not_fit_are_one_line_and_nothing_is_written(copied, harm, stages, message):
    path = path_of(copied)
    harm(path)
    before = digests(copied)
    code, output = finish(copied, f"stages=[{stages}]")
    (error,) = (line for line in output.splitlines() if line.startswith("error:"))
    assert code == 2, output
    assert re.match(f"error: {message}", error), error
    written = {p.name for p in digests(copied).items() ^ before.items() for p in p[:1]}
    assert written <= {"config.yaml", "output.txt", "agreement.json"}


def test_a_lost_part_is_labelled_again(copied, finished):
    path = path_of(copied)
    lose_part(path)
    run_tiny(copied, UP_TO_STUDENTS)
    assert same_tensors(finished[1], path, "labels/**/epoch_*") == 9
    assert accuracies(path) == accuracies(finished[1])


@pytest.mark.parametrize(("levels", "dtype"), [(255, torch.uint8), (16, torch.float32)])
def test_real_images_are_kept_in_eight_bits_where_those_are_exact(levels, dtype):
    spec = dataset_spec("digits")._replace(num_classes=2, class_names=("0", "1"))
    pixels = torch.arange(600 * 2 * 9).reshape(-1, 1, 3, 3) % (levels + 1)
    labelled = LabelledImages(pixels.to(torch.uint8), torch.arange(1200) % 2)
    table = TensorTable(labelled, spec, max_value=levels)
    indices = table.draw(300, generator=torch.Generator().manual_seed(0))  # two parts
    kept = gathered(table, indices)
    assert (kept.dtype, kept.shape) == (dtype, (2, 300, 1, 3, 3))
    unit = kept.float() / 255 if dtype == torch.uint8 else kept
    assert torch.equal(unit, table.gather(indices))
