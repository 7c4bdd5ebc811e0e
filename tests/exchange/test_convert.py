"""The command: what it prints and what it refuses."""

import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.exchange.inspection import num_duplicates
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.types import InputError
from tests.processes import finish

SCRIPT = Path(__file__).resolve().parents[2] / "experiments/convert.py"


@pytest.fixture(scope="module")
def command():
    return runpy.run_path(str(SCRIPT))["main"]


def test_a_set_goes_through_every_format_and_back(tmp_path, made, spec, command):
    distilled = made(of=spec._replace(resolution=32))
    last = write_set(tmp_path / "native", distilled, format="native")
    names = {"idc": "data.pt", "dc": "res.pt", "idm": "acc.pkl", "mtt": "mtt", "ddranking": "dd.pt"}
    for format, name in names.items():
        options = [] if last.name == "native" else ["data=cifar10"]
        options += ["factor=1"] if last.suffix in (".pt", ".pkl") else []
        command([str(last), str(tmp_path / name), f"to={format}", *options])
        last = tmp_path / name
    command([str(last), str(tmp_path / "end"), "to=native", "data=cifar10"])
    end = load_set(tmp_path / "end")
    assert (end.images - distilled.images).abs().max() <= 8 * 2**-23
    assert torch.equal(end.labels, distilled.labels)
    assert end.manifest["licence"] == distilled.manifest["dataset"]["licence"]


def test_warnings_are_printed_apart(tmp_path, made, spec, command, capsys):
    source = write_set(tmp_path / "data.pt", made(of=spec._replace(resolution=32)), format="idc")
    command([str(source), str(tmp_path / "out"), "to=native", "data=cifar10"])
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}\n"
    assert printed.err.count("warning: inferred") == 3


def test_inspection_tells_what_is_there(tmp_path, made, spec, command, capsys):
    distilled = made(of=spec._replace(resolution=32))
    distilled.images[1] = distilled.images[0]
    write_set(tmp_path / "res.pt", distilled, format="dc")
    command([str(tmp_path / "res.pt")])
    printed = capsys.readouterr().out
    for text in (
        "format      dc",
        "images      20 × 3 × 32 × 32 float32, -2.429 to 2.754",
        "labels      0 to 9, 2 images each",
        "as cifar10: space normalised, labels classes",
        "duplicates  1 images are exact copies of others",
        "as svhn: refused:",
        "warning: inferred space=normalised",
    ):
        assert text in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "res.pt"]


def test_inspection_of_a_native_set_asks_nothing(tmp_path, made, spec, command, capsys):
    folder = write_set(tmp_path / "set", made(of=spec._replace(resolution=32)), format="native")
    command([str(folder)])
    printed = capsys.readouterr().out
    assert "as cifar10\n" in printed
    assert "warning" not in printed


def test_copies_are_counted_once_each():
    images = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0]).reshape(5, 1, 1, 1)
    assert num_duplicates(images) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["SET", "OUT", "to=native"], "does not say what it was made from; name it by data=NAME"),
        (["SET", "OUT", "to=zip", "data=cifar10"], "unknown format zip"),
        (["SET", "OUT"], "usage: python experiments/convert.py"),
        (["SET", "to=native"], "usage: python experiments/convert.py"),
        (["SET", "OUT", "into=native"], "unknown option into="),
        (["SET", "OUT", "to=native", "factor=two"], "factor=two is no number"),
        (["SET", "OUT", "to=native", "data=cifar"], "unknown data set 'cifar'"),
        (["SET", "OUT", "to=native", "data=digits"], "those of digits of"),
        (["SET", "SET", "to=idc", "data=cifar10"], "is the source itself"),
        (["SET", "OUT", "to=native", "data=cifar10", "overwrite=yes"], "neither true nor false"),
        (["NONE", "OUT", "to=native"], "there is no distilled set at"),
        (["NONE"], "there is no distilled set at"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, made, spec, command, arguments, reason):
    path = write_set(tmp_path / "data.pt", made(of=spec._replace(resolution=32)), format="idc")
    places = {"SET": path, "OUT": tmp_path / "out", "NONE": tmp_path / "none"}
    with pytest.raises(InputError, match=reason) as error:
        command([str(places.get(argument, argument)) for argument in arguments])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_hostile_file_ends_the_command_with_one_line_and_code_two(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    (tmp_path / "acc.pkl").write_bytes(pickle.dumps(Hostile()))
    code, output = finish(tmp_path / "log.txt", str(tmp_path / "acc.pkl"), script="convert.py")
    assert code == 2
    _, error = output.splitlines()  # the format, told before a byte was read
    assert error.startswith("error: refused")
    assert "posix.system" in error
    assert not (tmp_path / "marker").exists()
