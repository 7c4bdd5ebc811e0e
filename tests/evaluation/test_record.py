"""Records of students: what is written is read, and nothing else is believed."""

import json
from dataclasses import replace

import pytest

from geodm_lightning.evaluation.record import (
    DivergedError,
    Divergence,
    RecordKey,
    StudentResult,
    read_record,
    read_students,
    write_record,
)
from geodm_lightning.types import InputError

STUDENT = StudentResult(
    seed=1, index=2, set_digest="abc", accuracy=0.625, loss=1.5, train_accuracy=1.0,
    num_steps=100, seconds=2.5, num_parameters=5066, peak_memory=None,
)  # fmt: skip
KEY = RecordKey(protocol_digest="p", set_digest="abc", seed=1, index=2)


def test_reads_what_was_written(tmp_path):
    write_record(tmp_path, STUDENT, protocol_digest="p")
    assert read_record(tmp_path, KEY) == STUDENT


@pytest.mark.parametrize(
    "change",
    [
        {"protocol_digest": "q"},
        {"set_digest": "abd"},
        {"seed": 2},
        {"index": 3},
        {"supervision_digest": "soft"},
    ],
)
def test_another_protocol_set_or_student_is_not_found(tmp_path, change):
    write_record(tmp_path, STUDENT, protocol_digest="p")
    assert read_record(tmp_path, replace(KEY, **change)) is None


def test_supervised_record_is_found_by_its_supervision_alone(tmp_path):
    path = write_record(tmp_path, STUDENT, protocol_digest="p", supervision_digest="soft")
    assert read_record(tmp_path, replace(KEY, supervision_digest="soft")) == STUDENT
    assert read_record(tmp_path, KEY) is None
    path.rename(KEY.path(tmp_path))
    with pytest.raises(InputError, match="supervision than its name"):
        read_record(tmp_path, KEY)


def test_record_of_before_there_were_supervisions_is_one_of_hard_labels(tmp_path):
    path = write_record(tmp_path, STUDENT, protocol_digest="p")
    assert path.name == "student-p-abc-seed1-2.json"
    values = json.loads(path.read_text())
    del values["supervision_digest"]
    path.write_text(json.dumps(values))
    assert read_record(tmp_path, KEY) == STUDENT


def test_record_of_before_calibration_was_told_has_none(tmp_path):
    told = replace(STUDENT, calibration_error=0.125)
    path = write_record(tmp_path, told, protocol_digest="p")
    assert read_record(tmp_path, KEY) == told
    values = json.loads(path.read_text())
    del values["student"]["calibration_error"]
    path.write_text(json.dumps(values))
    assert read_record(tmp_path, KEY) == STUDENT


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"student": {}}', "\udcff"])
def test_damaged_record_is_named(tmp_path, damage):
    path = write_record(tmp_path, STUDENT, protocol_digest="p")
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=path.name):
        read_record(tmp_path, KEY)


def test_record_under_a_foreign_name_is_refused(tmp_path):
    path = write_record(tmp_path, STUDENT, protocol_digest="p")
    path.rename(replace(KEY, index=3).path(tmp_path))
    with pytest.raises(InputError, match="another student"):
        read_record(tmp_path, replace(KEY, index=3))


def test_edited_accuracy_above_one_is_refused(tmp_path):
    path = write_record(tmp_path, STUDENT, protocol_digest="p")
    values = json.loads(path.read_text())
    values["student"]["accuracy"] = 62.5
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"fraction, got 62\.5"):
        read_record(tmp_path, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"index": True},
        {"num_steps": 1.5},
        {"accuracy": float("nan")},
        {"loss": float("inf")},
        {"loss": "1.0"},
        {"train_accuracy": -0.1},
        {"set_digest": ""},
        {"peak_memory": 1.5},
        {"calibration_error": 1.5},
        {"calibration_error": float("nan")},
    ],
)
def test_impossible_values_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        replace(STUDENT, **change)


def test_a_divergence_is_kept_in_the_place_of_the_student(tmp_path):
    lost = Divergence(seed=1, index=2, set_digest="abc", step=50)
    path = write_record(tmp_path, lost, protocol_digest="p")
    assert path == KEY.path(tmp_path)
    assert read_record(tmp_path, KEY) == lost
    with pytest.raises(DivergedError, match=rf"student 2 on X is not finite at step 50.*{path}"):
        read_students(tmp_path, [replace(KEY, index=1), KEY], label="X")
    path.write_text(path.read_text().replace("50", "-50"))
    with pytest.raises(InputError, match=r"damaged.*step must be a whole number, got -50"):
        read_record(tmp_path, KEY)
