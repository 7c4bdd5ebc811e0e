"""Sets made elsewhere: the rows they become, whole runs, refusals."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.distilled.storage import load_set, save_set
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.pipeline import run
from geodm_lightning.settings import check_settings
from geodm_lightning.stages.arguments import overrides_of
from geodm_lightning.types import InputError
from tests.experiment import compose_config, compose_settings
from tests.native_set import make_set
from tests.processes import finish

SHORT = (
    "schedule=quick",
    "schedule.max_student_epochs=2",
    "schedule.max_students=1",
    "evaluation.together=1",
    "network.width=8",
    "stages=[distill,relabel,evaluate,report]",
)


def judge(folder, *arguments):
    """Run the command in this process and return the folder of its run."""
    run(compose_config(*overrides_of([*arguments, *SHORT, f"run_dir={folder}/runs", "name=it"])))
    return folder / "runs" / "it"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    sets = [make_set(folder / "dm", schedule_share=0.5), make_set(folder / "b", seed=1, label="B")]
    wide = "+architectures.wide={label: Wide, name: convnet, depth: 3, width: 16}"
    arguments = (f"distilled=[{sets[0]},{sets[1]}]", "num_seeds=2", wide)
    return folder, sets, arguments, judge(folder, *arguments)


def test_rows_and_random_images_stand_in_one_table(judged):
    _, sets, _, path = judged
    results = load_results(path / "results.json")
    rows = [result.key for result in results]
    each = ("", "@wide")
    assert rows == [f"{row}{name}" for row in ("random", "dm", "b") for name in each]
    by_key = {result.key: result for result in results}
    assert by_key["dm"].students[0].set_digest == load_set(sets[0]).digest()
    assert by_key["dm"].num_sets == by_key["b@wide"].num_sets == 1
    assert by_key["random"].num_sets == 2  # drawn again for every seed
    assert {result.ipc for result in results} == {2}
    assert by_key["dm"].schedule_share == 0.5
    assert {result.protocol.recipe_digest() for result in results} == {
        results[0].protocol.recipe_digest()
    }
    protocols = {(r.protocol.network, r.protocol.digest()) for r in results}
    assert len(protocols) == 2
    table = (path / "table.md").read_text()
    assert "| Method | Images per class | convnet, % | Wide, % |" in table
    assert "over the students of one set" in table
    assert "over the sets of the seeds: Random real images" in table
    copied = load_set(path / "0" / "distilled")
    assert torch.equal(copied.images, load_set(sets[0]).images)
    assert copied.manifest["imported"]["path"] == str(sets[0])


def test_a_finished_judgement_is_not_made_again(judged):
    folder, _, arguments, path = judged
    kept = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.name in ("results.json",)}
    kept |= {p: p.stat().st_mtime_ns for p in path.rglob("student-*.json")}
    judge(folder, *arguments)
    assert {p: p.stat().st_mtime_ns for p in kept if p.parent != path} == {
        p: time for p, time in kept.items() if p.parent != path
    }


def test_a_changed_file_is_noticed(judged):
    folder, sets, arguments, _ = judged
    before = load_set(sets[1])
    make_set(sets[1], seed=2, label="B")
    with pytest.raises(InputError, match=r"b has changed since it was imported into .*baselines/b"):
        judge(folder, *arguments)
    save_set(sets[1], before)


def test_own_labels_are_a_column_and_are_refused_where_there_are_none(tmp_path):
    path = make_set(tmp_path / "soft", soft=True)
    results = load_results(
        judge(tmp_path, f"distilled={path}", "supervision=own") / "0/results.json"
    )
    assert [result.key for result in results] == ["random", "dm", "dm/own"]
    assert results[2].label_identities["0"].startswith("own ")
    assert results[2].students[0].loss != results[1].students[0].loss
    bare = make_set(tmp_path / "bare")
    with pytest.raises(InputError, match="DM came without soft labels, which supervision own"):
        judge(tmp_path / "other", f"distilled={bare}", "supervision=own")


def test_a_learned_rate_is_told_and_left_alone(tmp_path, capsys):
    path = make_set(tmp_path / "set", learned={"lr": 0.034})
    (result,) = load_results(
        judge(tmp_path, f"distilled={path}", "baselines=[]") / "0/results.json"
    )
    assert result.protocol.lr == 0.01
    assert "learned rate of 0.034" in capsys.readouterr().out
    manifest = load_set(tmp_path / "runs/it/0/distilled").manifest
    assert "evaluation.protocol.lr=0.034 takes it" in manifest["imported"]["warnings"][0]


def test_pictures_with_labelled_views_are_played_back(tmp_path):
    """Class folders and FKD labels, as SRe2L's scripts leave them; the epochs must suffice."""
    distilled = load_set(make_set(tmp_path / "set", ipc=4))
    eight_bits = (distilled.images * 255).round().to(torch.uint8)
    write_set(tmp_path / "fkd" / "images", distilled._replace(images=eight_bits), format="images")
    generator = torch.Generator().manual_seed(42)  # of the sampler that SRe2L draws from
    for epoch in range(2):
        order = torch.randperm(40, generator=generator)
        folder = tmp_path / "fkd" / "labels" / f"epoch_{epoch}"
        folder.mkdir(parents=True)
        for number, indices in enumerate(order.split(16)):
            crops = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(indices), 4).clone()
            partners = torch.arange(len(indices)).flip(0)
            logits = 9 * torch.eye(10)[distilled.labels[indices]].half()
            content = [crops, torch.zeros(len(indices)) > 0, partners, 1.0, [0, 0, 0, 0], logits]
            torch.save(content, folder / f"batch_{number}.tar")
    arguments = (
        f"distilled={tmp_path}/fkd", "data=digits", "supervision=own_kl", "~supervision.hard",
        "evaluation=protocol_sre2l", "evaluation.protocol.resolution=null", "baselines=[random]",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"in 3 batches of 16, protocol SRe2L makes 1 of 1024"):
        judge(tmp_path, *arguments)
    path = judge(tmp_path / "again", *arguments, "evaluation.protocol.batch_size=16")
    (result,) = load_results(path / "0" / "results.json")
    assert result.key == "fkd/own"
    assert result.students[0].num_steps == 6
    assert result.label_identities["0"].startswith("given ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("ipc=5",), r"share their images per class, got .*soft 2, ipc=5 5"),
        (("num_seeds=4",), r"DM has 2 sets for 4 seeds; use num_seeds=2"),
        (("data=mnist",), r"mnist"),
        (("architectures=published",), "VGG-11 shrinks 8 px images to one pixel"),
        (("+architectures.x={depth: 3}",), r"architectures.x must name a network"),
        (("+variants.x={transport:{epsilon:1}}",), "variants change how a set is made"),
        (("distiller.name=[Random]",), "set 'random' has the name of another row"),
        (("distiller.name=[A,B]",), "distiller.name has 2 names for 1 sets"),
        (
            ("+supervision.x={label: X, teachers: all, kl: 1}",),
            "needs teachers, but there are none",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_folder_is_made(tmp_path, overrides, message):
    path = make_set(tmp_path / "soft")
    if "num_seeds=4" in overrides:
        make_set(tmp_path / "soft2")
        path = f"{path}*"
    with pytest.raises(InputError, match=message) as caught:
        judge(tmp_path, f"distilled={path}", *overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "data"), [("published", "cifar10"), ("small", "digits")])
def test_architectures_can_be_built(name, data):
    settings = compose_settings(f"architectures={name}", f"data={data}")
    assembly.check_buildable(settings, dataset_spec(data), rows=[])
    protocols = assembly.build_architectures(settings, dataset_spec(data))
    assert [each.name for each in protocols] == ["", *settings["architectures"]]


def test_own_labels_need_a_set_that_was_made_elsewhere():
    with pytest.raises(InputError, match="'own' asks for labels that came with a set"):
        check_settings(compose_settings("supervision=own"))


def test_the_command_says_a_mistake_in_one_line(tmp_path):
    log = tmp_path / "log.txt"
    code, output = finish(log, f"distilled={tmp_path}/none", script="evaluate.py")
    assert code == 2
    assert (
        output.strip() == f"error: there is no distilled set at {tmp_path}/none; correct the path"
    )
    assert list(tmp_path.iterdir()) == [log]
