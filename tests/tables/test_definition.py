"""A table is defined strictly: every name in it must mean something, every run must exist."""

from typing import Any

import pytest

from geodm_lightning.command_line import CONFIGS
from geodm_lightning.methods import methods_of
from geodm_lightning.tables.definition import read_table
from geodm_lightning.tables.runs import merged_overrides, planned_runs
from geodm_lightning.tables.state import run_settings
from geodm_lightning.types import InputError
from tests.tables.small_tables import small_table

TABLES = sorted(path.stem for path in CONFIGS.glob("table/*.yaml"))


def committed_table(name: str):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("table", [f"table={name}"])
    return read_table(name, OmegaConf.to_container(config.table, resolve=False))


def keys_of(settings: dict[str, Any]) -> set[str]:
    """Every key that the results of a run could have."""
    architectures = ["", *(f"@{name}" for name in settings["architectures"] or {})]
    taught = ["" if name == "hard" else f"/{name}" for name in settings["supervision"]]
    rows = [row.key for row in methods_of(settings)]
    return {f"{row}{t}{a}" for row in rows for t in taught for a in architectures}


def check_run(run) -> None:
    settings = run_settings(run)
    lacking = set(run.results) - keys_of(settings)
    assert not lacking, f"{run.name} never makes {lacking}"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_reads_and_random_images_stand_in_every_group(name):
    table = committed_table(name)
    assert list(table.cells())
    if name != "cost":
        for group in table.groups:
            assert any(row.result.partition("/")[0] == "random" for row in group.rows), group.key


@pytest.mark.parametrize("name", TABLES)
def test_the_last_run_of_every_table_makes_what_its_cells_read(name):
    check_run(planned_runs(committed_table(name), schedule="quick")[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_run_makes_what_its_cells_read(name):
    for run in planned_runs(committed_table(name)):
        check_run(run)


def test_no_value_is_said_to_be_published_for_geodm():
    for name in TABLES:
        for cell in committed_table(name).cells():
            if "GeoDM" in cell.row.label:
                assert cell.published is None
                assert cell.row.unpublished


@pytest.mark.parametrize(
    ("cell", "value", "std"),
    [
        ("cifar10_ipc10/dm", 48.9, 0.6),
        ("cifar100_ipc50/dm", 43.6, 0.4),
        ("cifar10_ipc50/dsdm", 75.8, 0.3),
        ("cifar10_ipc1/m3d", 45.3, 0.3),
        ("tiny_imagenet_ipc10/ncfm", 14.2, None),
        ("cifar10_ipc10/random", 26.0, None),
    ],
)
def test_published_values_are_those_of_the_papers(cell, value, std):
    published = committed_table("geodm_main").cell(cell).published
    assert (published.value, published.std) == (value, std)
    assert published.source


def broken(**changes: Any) -> dict[str, Any]:
    return {**small_table(), **changes}


def with_row(row: dict[str, Any]) -> dict[str, Any]:
    table = small_table()
    table["groups"]["dm"]["rows"]["dm"] = row
    return table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (broken(colums={}), "unknown key 'colums'"),
        (broken(title=3), "title must be text"),
        (broken(tolerance=-1), "tolerance must be a number"),
        (broken(columns=[]), "expected names with values"),
        (with_row({"label": "DM", "lable": "DM"}), "unknown key 'lable'"),
        (with_row({}), "row dm lacks label"),
        (with_row({"label": "DM", "published": {"x": {"value": 1, "source": "paper"}}}), "'x'"),
        (
            with_row({"label": "DM", "published": {"digits_ipc1": {"value": 1, "source": "no"}}}),
            "unknown source 'no'; choose one of paper",
        ),
        (
            with_row(
                {"label": "D", "published": {"digits_ipc1": {"value": True, "source": "paper"}}}
            ),
            "value must be a number",
        ),
    ],
)
def test_a_definition_with_a_mistake_is_refused_by_its_name(values, message):
    with pytest.raises(InputError, match=message) as caught:
        read_table("small", values)
    assert "small" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_one_name_are_refused():
    values = small_table()
    values["groups"]["ncfm"]["rows"] = {"dm": {"label": "DM"}}
    with pytest.raises(InputError, match="row dm is there twice"):
        read_table("small", values)


def test_columns_of_one_run_must_be_made_alike():
    values = small_table()
    values["columns"]["digits_ipc1"]["run"] = "digits_ipc10"
    values["groups"]["dm"]["columns"] = {}
    with pytest.raises(InputError, match="differ in experiment or overrides"):
        read_table("small", values)


@pytest.mark.parametrize(
    "key", ["digits_ipc10/nothing", "nothing/dm", "nothing", "digits_ipc1/ncfm"]
)
def test_an_unknown_cell_is_refused_and_the_known_ones_named(key):
    with pytest.raises(InputError, match=f"no cell '{key}'"):
        read_table("small", small_table()).cell(key)


def test_unknown_columns_and_groups_are_refused():
    table = read_table("small", small_table())
    with pytest.raises(InputError, match="unknown column of table small 'x'; choose among digits"):
        table.selected(columns=["x"], groups=None)
    with pytest.raises(InputError, match="unknown group of table small 'x'; choose among dm, ncfm"):
        table.selected(columns=None, groups=["x"])


def test_runs_are_one_for_every_group_and_experiment_and_named_after_their_schedule():
    table = read_table("small", small_table())
    runs = {run.name: run for run in planned_runs(table, schedule="quick", overrides=("ipc=3",))}
    assert list(runs) == [
        "digits_ipc1_dm_quick",
        "digits_ipc10_dm_quick",
        "digits_ipc10_ncfm_quick",
    ]
    assert runs["digits_ipc1_dm_quick"].overrides == (
        "+experiment=digits_ipc1",
        "strategy=dm_digits",  # the column's settings win over the group's
        "baselines=[random,base]",
        "schedule=quick",
        "ipc=3",
    )
    assert runs["digits_ipc10_dm_quick"].results == ("random", "dm", "geodm")


def test_the_last_override_of_a_setting_wins():
    assert merged_overrides("a=1", "b=2", "a=3", "+c={x:1}") == ("a=3", "b=2", "+c={x:1}")


def test_all_tables_are_documented_by_their_first_lines():
    for name in TABLES:
        first, second = (CONFIGS / "table" / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# ")
        assert f"table={name}" in second


def test_a_setting_that_no_run_has_is_refused_in_one_line():
    (run, *_) = planned_runs(read_table("small", small_table()), overrides=("network.widht=3",))
    with pytest.raises(InputError, match=r"run digits_ipc1_dm: .*network\.widht"):
        run_settings(run)
