import pytest

from geodm_lightning.files import name_of, sha256_of, write_atomically, write_json, write_text
from geodm_lightning.types import InputError


def test_sha256_has_a_known_answer(tmp_path):
    path = write_text(tmp_path / "abc", "abc")
    assert sha256_of(path).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = write_text(tmp_path / "file.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*file.txt: No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_hidden(tmp_path):
    def fail(temporary):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", fail)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        write_text(tmp_path / "file" / "inside", "text")


def test_json_refuses_what_it_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert not (tmp_path / "value.json").exists()


def test_values_have_one_name_whatever_their_order():
    assert name_of({"a": 1, "b": [2]}) == name_of({"b": [2], "a": 1})
    assert name_of({"a": 1}) != name_of({"a": 2})
    assert len(name_of({})) == 12
