"""The command line of sets made elsewhere, as overrides of the configuration."""

from pathlib import Path

import pytest

from geodm_lightning.methods import called, methods_of
from geodm_lightning.settings import check_settings
from geodm_lightning.stages.arguments import overrides_of
from geodm_lightning.types import InputError
from tests.experiment import compose_settings
from tests.native_set import make_set

ROOT = Path(__file__).resolve().parent.parent


def settings_for(*arguments):
    return compose_settings(*overrides_of(list(arguments)))


def test_a_native_set_says_what_it_is_to_be_judged_by(tmp_path):
    path = make_set(tmp_path / "runs" / "x" / "0" / "distilled")
    settings = settings_for(f"distilled={path}")
    check_settings(settings)
    assert settings["data"]["name"] == "digits"
    assert settings["name"] == "digits_ipc2_dm_protocol_a"
    assert settings["schedule"]["name"] == "full"
    assert settings["schedule"]["max_student_epochs"] is None
    assert settings["evaluation"]["protocol"]["epochs"] == 1000
    assert [row.key for row in methods_of(settings)] == ["random", "dm"]
    other = settings_for(f"distilled={path}", "evaluation=protocol_c", "schedule=quick")
    assert other["name"] == "digits_ipc2_dm_protocol_c_quick"
    assert other["schedule"]["max_student_epochs"] == 200


def test_whatever_is_said_is_kept_and_foreign_words_find_their_setting(tmp_path):
    (tmp_path / "it's (1).pt").write_bytes(b"x")
    arguments = [
        f"distilled={tmp_path}/it's (1).pt", "data=cifar10", "space=zca", "factor=2",
        "labels=logits", f"zca={tmp_path}/z.pt", "order=[b,a]", "baselines=[random,whole]",
        "network.width=16", "name=n",
    ]  # fmt: skip
    settings = settings_for(*arguments)
    distiller = settings["distiller"]
    assert distiller["path"] == [f"{tmp_path}/it's (1).pt"]
    assert (distiller["space"], distiller["factor"], distiller["labels"]) == ("zca", 2, "logits")
    assert (distiller["zca"], distiller["order"]) == (f"{tmp_path}/z.pt", ["b", "a"])
    assert (settings["name"], settings["baselines"]) == ("n", ["random", "whole"])
    assert settings["network"] == {"name": "convnet", "depth": None, "width": 16}
    again = overrides_of(overrides_of(arguments))  # as the processes of a run are started
    assert again == overrides_of(arguments)


def test_flags_of_hydra_come_before_all_overrides(tmp_path):
    path = make_set(tmp_path / "set")
    words = overrides_of(
        [f"distilled={path}", "name=a,b", "-m", "--cfg", "job", "~supervision.hard"]
    )
    assert words[:3] == ["-m", "--cfg", "job"]
    assert words[-2:] == ["name=a,b", "~supervision.hard"]


def test_a_glob_is_one_row_with_a_set_for_each_seed(tmp_path):
    for seed in (0, 2, 10):
        make_set(tmp_path / "x" / str(seed) / "distilled", seed=seed)
    other = make_set(tmp_path / "y" / "distilled")
    settings = settings_for(f"distilled=[{tmp_path}/x/*/distilled,{other}]")
    assert settings["num_seeds"] == 3
    row, single = methods_of(settings)[1:]
    assert [Path(p).parent.name for p in row.settings["distiller"]["path"]] == ["0", "2", "10"]
    assert single.settings["distiller"]["path"] == str(other)
    assert [row.label, single.label] == ["DM, x", "DM, y"]  # told apart by their paths
    assert (row.is_main, single.is_main) == (True, False)


def test_names_are_the_telling_part_of_a_path():
    assert called("a/cifar10/data.pt") == "cifar10"
    assert called("res_DM_CIFAR10.pt") == "res_DM_CIFAR10"
    assert called("runs/it/3/distilled") == "it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python experiments/evaluate.py distilled=PATH"),
        (["-m", "name=a,b"], "usage: python experiments/evaluate.py distilled=PATH"),
        (["distilled=nowhere"], "no distilled set at nowhere"),
        (["distilled=no*where"], r"no distilled set at no\*where"),
        (["distilled=[a"], "does not end; close it by ]"),
        (["distilled=[a,]"], "lacks a path"),
        (["distilled=README.md"], "README.md does not tell its data set; add data=NAME"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message) as caught:
        overrides_of(arguments)
    assert "\n" not in str(caught.value)
