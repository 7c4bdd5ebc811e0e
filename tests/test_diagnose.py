"""The command that diagnoses a data set, on a handful of digits."""

import json
import runpy
import sys
from pathlib import Path

import hydra.utils
import pytest

from geodm_lightning.diagnosis.proposal import Proposal
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.stages.diagnose import (
    DiagnosisOptions,
    check_options,
    diagnose_data,
    override_of,
)
from geodm_lightning.stages.run import CONSOLE
from geodm_lightning.types import InputError
from tests.experiment import compose_settings, tiny_overrides

SCRIPT = Path(__file__).resolve().parent.parent / "experiments" / "diagnose.py"
FEW = {
    "num_images": 20,
    "num_control_images": 60,
    "num_controls": 2,
    "num_networks": 2,
    "num_triangles": 50,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file of a small diagnosis and what was printed."""
    folder = tmp_path_factory.mktemp("diagnose")
    settings = {**compose_settings(*tiny_overrides(folder)), "diagnosis": FEW}
    with CONSOLE.capture() as printed:
        path = diagnose_data(settings)
    return path, json.loads(path.read_text()), printed.get(), settings


def test_everything_is_measured_beside_its_controls(made):
    path, record, _, settings = made
    assert path == Path(settings["run_dir"]) / "diagnosis" / "digits.json"
    names = [row["name"] for row in record["rows"]]
    assert names == ["pixels", "random 0", "random 1", "trained"]
    for row in record["rows"]:
        assert row["data"].keys() == row["controls"].keys()
        assert all(len(values) == 2 for values in row["controls"].values())
        assert 0 < row["data"]["delta_rel"] <= 1
    assert record["options"] == {**DiagnosisOptions()._asdict(), **FEW}
    assert record["provenance"]["geodm_lightning"]


def test_table_and_override_are_printed(made):
    _, record, printed, _ = made
    for text in ("pixels", "random ×2", "trained", "(G)", "δ_rel", record["override"]):
        assert text in printed


def test_override_is_accepted_by_the_configuration(made):
    _, record, _, _ = made
    settings = compose_settings(*record["override"].split())
    geometry = hydra.utils.instantiate(settings["geometry"], _convert_="all")
    assert isinstance(geometry, ProductManifold)
    state = geometry.state()
    assert state["curvature/spherical"] == pytest.approx(
        record["proposal"]["curvature"]["spherical"]
    )
    assert state["weight/hyperbolic"] == pytest.approx(
        record["proposal"]["weights"]["hyperbolic"], abs=1e-4
    )


def test_same_settings_same_numbers(made, tmp_path):
    _, record, _, settings = made
    with CONSOLE.capture():
        again = diagnose_data({**settings, "run_dir": str(tmp_path)})
    assert json.loads(again.read_text())["rows"] == record["rows"]


def test_trained_pool_takes_the_trained_row(made, tmp_path):
    settings = made[3]
    pool = {**settings["pool"], "kind": "trained"}
    with CONSOLE.capture():
        path = diagnose_data({**settings, "run_dir": str(tmp_path), "pool": pool})
    assert json.loads(path.read_text())["proposal"]["features"] == "trained"


def test_override_names_factors_in_the_order_of_the_configuration():
    proposal = Proposal(
        {"hyperbolic": 0.5, "spherical": 2.0},
        {"euclidean": 0.2, "hyperbolic": 0.3, "spherical": 0.5},
        "",
    )
    assert override_of(proposal) == (
        "geometry.curvature.hyperbolic=0.5 geometry.curvature.spherical=2 "
        "geometry.weights=[0.2,0.3,0.5]"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 5}, "unknown key 'diagnosis.images'"),
        ({"num_images": 3}, "diagnosis.num_images must be a whole number of at least 4"),
        ({"num_controls": 0}, "diagnosis.num_controls must be a whole number of at least 1"),
        ({"num_triangles": 1.5}, "diagnosis.num_triangles must be a whole number"),
    ],
)
def test_refuses_options_it_cannot_use(options, message):
    with pytest.raises(InputError, match=message):
        check_options(options)


def test_a_mistake_is_one_line_and_exit_code_two(tmp_path, monkeypatch, capsys):
    overrides = ["++diagnosis.pictures=5", f"run_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *overrides])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: unknown key 'diagnosis.pictures'; choose among num_")
    assert printed.count("\n") == 1
