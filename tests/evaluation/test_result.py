"""Results: means and deviations by hand, merging, and files that contradict themselves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geodm_lightning.evaluation.interval import t_interval
from geodm_lightning.evaluation.merging import merge_results
from geodm_lightning.evaluation.result import load_results, one_per_set, save_results
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.types import InputError

LIA = Supervision("lia", "LIA", mse=1.0, teachers="aligned")


def test_mean_and_sample_deviation_by_hand(make_result):
    result = make_result(0.5, 0.6, 0.7)
    assert result.mean == pytest.approx(0.6)
    assert result.std == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)


def test_one_student_has_no_deviation(make_result):
    result = make_result(0.5)
    assert (result.mean, result.std, result.std_of_seeds) == (0.5, None, None)


def test_merging_seeds_by_hand(make_result):
    merged = merge_results([make_result(0.5, 0.7), make_result(0.8, 0.8, seed=1)])
    assert merged.seeds == (0, 1)
    assert merged.mean == pytest.approx(0.7)
    # deviations from 0.7: -0.2, 0, 0.1, 0.1
    assert merged.std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.01) / 3))
    assert merged.seed_means == pytest.approx({0: 0.6, 1: 0.8})
    assert merged.std_of_seeds == pytest.approx(math.sqrt(0.02))
    assert merged.provenance == {"0": {"host": "machine 0"}, "1": {"host": "machine 1"}}


def test_seeds_of_two_precisions_are_not_merged(make_result):
    """An older result, which does not tell, is of float32."""
    old, rounded = make_result(0.5), make_result(0.6, seed=1)
    rounded = replace(rounded, provenance={"precision": "bf16-mixed"})
    with pytest.raises(InputError, match="of precision '32-true' and 'bf16-mixed'"):
        merge_results([old, rounded])
    alike = replace(make_result(0.6, seed=2), provenance={"precision": "bf16-mixed"})
    assert merge_results([rounded, alike]).precision == "bf16-mixed"


def test_interval_covers_the_mean_as_often_as_it_says():
    """Of intervals of normal draws 95 in 100 hold the true mean, within four deviations."""
    draws = np.random.default_rng(0).normal(0.5, 0.02, size=(4000, 4))
    held = sum(low <= 0.5 <= high for low, high in map(t_interval, draws.tolist()))
    assert abs(held / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_interval_is_over_sets_or_over_the_students_of_one(make_result):
    one = make_result(0.5, 0.6, 0.7)
    assert one.interval() == pytest.approx(
        (0.6 - 4.302653 * 0.1 / math.sqrt(3), 0.6 + 4.302653 * 0.1 / math.sqrt(3)), abs=1e-6
    )
    again = make_result(0.4, seed=1)
    same_set = replace(again, students=(replace(again.students[0], set_digest="set0"),))
    together = merge_results([one, same_set])
    assert together.num_sets == 1
    assert together.interval() == pytest.approx(t_interval([0.5, 0.6, 0.7, 0.4]))
    apart = merge_results([one, again])
    assert apart.num_sets == 2
    assert apart.interval(0.5) == pytest.approx((0.4, 0.6))  # t of one degree: tan(pi/4) = 1
    assert apart.interval() == (0.0, 1.0)  # an accuracy lies there anyway
    assert make_result(0.5).interval() is None
    with pytest.raises(InputError, match=r"inside \(0, 1\), got 95"):
        one.interval(95)


def test_architecture_is_part_of_the_key_and_is_kept(tmp_path, make_result):
    own, vit = make_result(0.5), make_result(0.4, architecture="vit", architecture_label="ViT")
    taught = make_result(0.4, architecture="vit", supervision=LIA)
    assert [r.key for r in (own, vit, taught)] == ["geodm", "geodm@vit", "geodm/lia@vit"]
    assert (vit.full_label, taught.full_label) == ("GeoDM · ViT", "GeoDM · LIA · vit")
    path = save_results(tmp_path / "results.json", [own, vit])
    assert load_results(path) == [own, vit]
    values = json.loads(path.read_text())
    for name in ("architecture", "architecture_label"):
        del values[0][name]
    path.write_text(json.dumps(values))
    assert load_results(path)[0] == own  # written before there were architectures


def test_order_of_merging_does_not_matter(make_result):
    first, second = make_result(0.5, 0.7), make_result(0.8, seed=1)
    assert merge_results([first, second]).students == merge_results([second, first]).students


def test_merging_one_result_changes_nothing(make_result):
    assert merge_results([make_result(0.5)]) == make_result(0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dm"},
        {"label": "DM"},
        {"dataset": "mnist"},
        {"ipc": 1},
        {"num_images": 400},
        {"schedule_share": 1.0},
        {"supervision": LIA},
        {"teachers": ("a",)},
        {"architecture": "vit"},
    ],
)
def test_refuses_to_merge_what_differs(make_result, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        merge_results([make_result(0.5), make_result(0.5, seed=1, **changes)])


def test_refuses_to_merge_protocols_seeds_and_nothing(make_result, tiny_c):
    with pytest.raises(InputError, match="protocol"):
        merge_results([make_result(0.5), make_result(0.5, seed=1, protocol=tiny_c)])
    with pytest.raises(InputError, match="twice"):
        merge_results([make_result(0.5), make_result(0.6)])
    with pytest.raises(InputError, match="no results"):
        merge_results([])
    with pytest.raises(InputError, match="no student"):
        make_result()


def test_file_keeps_every_field(tmp_path, make_result):
    results = [
        make_result(0.1, 1 / 3),
        make_result(0.9, method="whole", ipc=None, schedule_share=None),
    ]
    assert load_results(save_results(tmp_path / "results.json", results)) == results


def test_supervision_is_kept_and_merged(tmp_path, make_result):
    parts = [
        make_result(
            0.5, seed=s, supervision=LIA, teachers=("a", "b"), label_identities={str(s): f"id{s}"}
        )
        for s in (0, 1)
    ]  # fmt: skip
    assert load_results(save_results(tmp_path / "results.json", parts)) == parts
    merged = merge_results(parts)
    assert merged.label_identities == {"0": "id0", "1": "id1"}
    assert (merged.key, merged.full_label) == ("geodm/lia", "GeoDM · LIA")
    assert (make_result(0.5).key, make_result(0.5).full_label) == ("geodm", "GeoDM")


def test_results_of_before_there_were_supervisions_are_of_hard_labels(tmp_path, make_result):
    path = save_results(tmp_path / "results.json", [make_result(0.5)])
    values = json.loads(path.read_text())
    for name in ("supervision", "teachers", "label_identities"):
        del values[0][name]
    path.write_text(json.dumps(values))
    assert load_results(path) == [make_result(0.5)]


def test_committed_results_still_load():
    paths = sorted((Path(__file__).parents[2] / "results").glob("*/results.json"))
    assert len(paths) >= 7
    for path in paths:
        guided = "generative" in path.parent.name
        taught = {result.supervision.name for result in load_results(path)}
        assert taught == ({"hard", "lia", "lia_otm"} if guided else {"hard"})


def test_one_per_set_keeps_the_first_of_each_method(make_result):
    hard, soft = make_result(0.5), make_result(0.6, supervision=LIA)
    other = make_result(0.7, method="dm")
    assert one_per_set([hard, soft, other]) == [hard, other]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json"):
        load_results(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.update(mean=0.99),
        lambda value: value.update(std=0.0),
        lambda value: value["students"][0].update(accuracy=0.99),
        lambda value: value["students"].pop(),
        lambda value: value["students"].clear(),
        lambda value: value["students"].append({"seed": 5}),
        lambda value: value["protocol"].update(lr=1.0),
        lambda value: value["protocol"].pop("lr"),
        lambda value: value.pop("label"),
        lambda value: value.update(format_version=2),
        lambda value: value.update(students=None),
    ],
)
def test_edited_file_is_refused_by_name(tmp_path, make_result, edit):
    path = save_results(tmp_path / "results.json", [make_result(0.5, 0.7)])
    values = json.loads(path.read_text())
    edit(values[0])
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"damaged results .*results\.json"):
        load_results(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[{"])
def test_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match="damaged results"):
        load_results(path)


def test_students_are_sorted(make_result):
    result = make_result(0.5, 0.6)
    assert replace(result, students=result.students[::-1]).students == result.students
