"""What is there of a run: done, partial, missing or refused; never a mixture of protocols."""

from dataclasses import replace

import pytest
import yaml

from geodm_lightning.tables.definition import read_table
from geodm_lightning.tables.plan import overrides_in, read_plan
from geodm_lightning.tables.runs import planned_runs
from geodm_lightning.tables.state import read_run
from geodm_lightning.types import InputError
from tests.tables.small_tables import PROTOCOL, result, small_options, small_table, write_run

RUN = planned_runs(read_table("small", small_table()))[0]  # random, dm, geodm of digits_ipc1


def seed_results(seed: int, **changes):
    return [result(method, 0.5, 0.6, seed=seed, **changes) for method in RUN.results]


def state(folder, seeds=(0, 1), settings=None):
    return read_run(RUN, folder, seeds=seeds, settings=settings)


def test_a_run_is_missing_then_partial_then_done(tmp_path):
    assert state(tmp_path).state == "missing"
    write_run(tmp_path, {0: seed_results(0)})
    partial = state(tmp_path)
    assert partial.state == "partial"
    assert partial.reason.startswith("3 of 6 results missing: random of seed 1")
    assert partial.results["dm"].seeds == (0,)
    write_run(tmp_path, {1: seed_results(1)})
    done = state(tmp_path)
    assert (done.state, done.reason) == ("done", "")
    assert done.results["geodm"].seeds == (0, 1)


def test_a_row_that_is_not_there_leaves_the_run_partial(tmp_path):
    write_run(tmp_path, {seed: seed_results(seed)[:2] for seed in (0, 1)})
    found = state(tmp_path)
    assert found.state == "partial"
    assert set(found.results) == {"random", "dm"}


def test_fewer_students_than_asked_for_are_not_done(tmp_path):
    write_run(tmp_path, {0: seed_results(0)}, config="{}")
    for count, expected in ((2, "done"), (3, "partial")):
        settings = {"evaluation": {"num_students": 9}, "schedule": {"max_students": count}}
        path = tmp_path / "0" / "config.yaml"
        path.write_text(
            f"evaluation: {{num_students: 9}}\nschedule: {{max_students: {count}}}\nseed: 0\n"
        )
        assert state(tmp_path, seeds=(0,), settings=settings).state == expected


def test_a_folder_made_with_other_settings_is_refused_and_the_key_named(tmp_path):
    write_run(tmp_path, {0: seed_results(0)}, config="ipc: 1\nname: run\nseed: 0\n")
    found = state(tmp_path, seeds=(0,), settings={"ipc": 2, "name": "run"})
    assert found.state == "refused"
    assert "ipc (1 there, 2 now)" in found.reason
    assert found.results == {}


@pytest.mark.parametrize(
    ("asked", "computed", "is_refused"),
    [
        ("auto", "32-true", False),
        ("auto", "bf16-mixed", False),
        ("bf16-mixed", "32-true", False),
        ("bf16-emulated", "bf16-mixed", False),
        ("bf16-emulated", "32-true", True),
        ("32-true", "bf16-mixed", True),
    ],
)
def test_a_precision_is_that_of_the_run_where_it_is_left_to_hardware(
    tmp_path, asked, computed, is_refused
):
    config = f"name: run\ntrainer: {{precision: {computed}}}\nseed: 0\n"
    write_run(tmp_path, {0: seed_results(0)}, config=config)
    counts = {"evaluation": {"num_students": 1}, "schedule": {"max_students": 1}}
    (tmp_path / "0" / "config.yaml").write_text(f"{config}{yaml.safe_dump(counts)}")
    settings = {"name": "run", "trainer": {"precision": asked}, **counts}
    found = state(tmp_path, seeds=(0,), settings=settings)
    assert (found.state == "refused") == is_refused
    assert ("trainer.precision" in found.reason) == is_refused


def test_cells_of_two_protocols_are_refused_and_both_are_named(tmp_path):
    other = replace(PROTOCOL, name="B", lr=0.02)
    results = [*seed_results(0)[:2], result("geodm", 0.5, 0.6, protocol=other)]
    write_run(tmp_path, {0: results})
    found = state(tmp_path, seeds=(0,))
    assert found.state == "refused"
    assert PROTOCOL.digest() in found.reason
    assert other.digest() in found.reason
    assert found.results == {}


def test_seeds_of_two_protocols_are_refused_and_both_are_named(tmp_path):
    other = replace(PROTOCOL, epochs=10)
    write_run(tmp_path, {0: seed_results(0), 1: seed_results(1, protocol=other)})
    found = state(tmp_path)
    assert found.state == "refused"
    assert PROTOCOL.digest() in found.reason
    assert other.digest() in found.reason


def test_damaged_results_are_refused_and_named(tmp_path):
    write_run(tmp_path, {0: seed_results(0)})
    (tmp_path / "0" / "results.json").write_text('[{"method": "dm"')
    found = state(tmp_path, seeds=(0,))
    assert found.state == "refused"
    assert "results.json" in found.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
        ({"num_seeds": True}, "num_seeds must be a whole number"),
        ({"list": "yes"}, "list must be true or false"),
        ({"columns": "digits_ipc1"}, "columns must be a list"),
        ({"only": ["nothing"]}, "unknown run 'nothing' in only; choose among digits_ipc1_dm"),
        ({"estimate": "maybe"}, "estimate must be true, false or a file PATH.json"),
        ({"tolerance": -1}, "tolerance must be a number"),
        ({"overrides": 3}, "overrides must read"),
        ({"overrides": ["network.width"]}, "overrides must read"),
        ({"reproduce": "digits_ipc1/nothing"}, "no cell 'digits_ipc1/nothing'"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_plan("small", small_options(tmp_path, **changes))


def test_columns_and_groups_that_share_no_cell_are_refused(tmp_path):
    options = small_options(tmp_path, columns=["digits_ipc1"], groups=["ncfm"])
    options["table"]["groups"]["ncfm"]["left_out"] = ["digits_ipc1"]
    with pytest.raises(InputError, match=r"no cell where .* group ncfm leaves out digits_ipc1"):
        read_plan("small", options)


def test_reproduce_chooses_the_run_of_its_cell(tmp_path):
    plan = read_plan("small", small_options(tmp_path, reproduce="digits_ipc10/dm"))
    assert [run.name for run in plan.runs] == ["digits_ipc10_dm"]


def test_overrides_are_read_back_by_hydra_as_they_were_given():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = {"a.b": 0.5, "c": None, "d": [True, "it's"], "e": {"f": "g,h", "i": 2}, "j": "x/y"}
    parsed = OverridesParser.create().parse_overrides(list(overrides_in(values)))
    assert {override.key_or_group: override.value() for override in parsed} == values
