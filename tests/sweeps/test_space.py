"""Sweep files: keys that exist, spaces that Optuna and wandb read alike, refusals in one line."""

import math
from itertools import product

import pytest
import yaml

from geodm_lightning import assembly
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.settings import check_settings
from geodm_lightning.sweeps.file import METRIC, read_space
from geodm_lightning.sweeps.proposals import distributions, propose
from geodm_lightning.sweeps.space import (
    Axis,
    name_of_point,
    overrides_of,
    quoted,
    rounded,
    text_of,
)
from geodm_lightning.types import InputError
from tests.experiment import CONFIGS, compose_config, compose_settings

SWEEPS = sorted((CONFIGS.parent / "sweeps").glob("*.yaml"))
ids = [path.stem for path in SWEEPS]
sweep_files = pytest.mark.parametrize("path", SWEEPS, ids=ids)
PARAMETERS = {"distribution": "log_uniform_values", "min": 0.1, "max": 5.0}


def corners(space):
    """Every choice of every axis, ranges at both ends."""
    ends = [axis.choices or (axis.low, axis.high) for axis in space.axes]
    return [dict(zip([a.key for a in space.axes], point, strict=True)) for point in product(*ends)]


def written(folder, **changes):
    values = {
        "method": "random",
        "metric": {"name": "accuracy", "goal": "maximize"},
        "parameters": {"geometry.curvature.hyperbolic": PARAMETERS, "ipc": {"value": 2}},
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value != "no"}))
    return path


def test_there_is_a_sweep_for_every_part_of_the_geometry():
    assert ids == ["curvature", "geometry", "strategies", "transport"]


@sweep_files
def test_every_key_of_a_sweep_file_is_a_setting(path):
    parameters = yaml.safe_load(path.read_text())["parameters"]
    settings = compose_settings()
    for key in parameters:
        if (CONFIGS / key).is_dir():
            continue
        value = settings
        for part in key.split("."):
            assert part in value, f"{key} of {path}"
            value = value[part]


def check_trial(settings):
    check_settings(settings)
    assembly.check_buildable(settings, dataset_spec("digits"))
    assert settings["data"]["validation"] > 0  # nothing is chosen on test images
    assert settings["evaluation"]["protocol"]["name"] == "A"  # trials are compared


@pytest.mark.slow
@sweep_files
def test_every_corner_of_a_sweep_can_be_run(path):
    space = read_space(path)
    for point in corners(space):
        check_trial(compose_settings(*space.fixed, *overrides_of(point)))


@sweep_files
def test_an_agent_of_wandb_and_a_local_sweep_start_the_same_run(path, monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    config, space = yaml.safe_load(path.read_text()), read_space(path)
    raw = {key: entry.get("values") for key, entry in config["parameters"].items()}
    local = propose(space, (), seed=1, number=5)
    told = {  # wandb hands on the values of the file as they are, lists included
        key: {"value": value if raw[key] is None else original(raw[key], value)}
        for key, value in local.items()
    }
    macros = create_sweep_command_args({"args": told})
    own = [part for part in config["command"] if "=" in part]
    theirs = compose_settings(*own, *macros["args_no_hyphens"])
    assert theirs["name"] == "abc123"
    assert theirs["logger"]["kind"] == "wandb"
    check_trial(theirs)
    assert theirs == compose_settings(*space.fixed, *overrides_of(local), "logger=wandb")


def original(values, text):
    return next(value for value in values if value == text or text_of(value) == text)


@sweep_files
def test_commands_are_those_an_agent_can_start(path):
    config = yaml.safe_load(path.read_text())
    assert (CONFIGS.parent / config["program"]).is_file()
    macros = [part for part in config["command"] if part.startswith("${")]
    assert macros == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert config["metric"] == {"name": METRIC, "goal": "maximize"}


@pytest.mark.filterwarnings("ignore:Choices for a categorical")  # of lists, which we write out
@sweep_files
def test_distributions_are_those_wandb_hands_to_optuna(path):
    theirs = pytest.importorskip("wandb.sdk.sweeps.scheduler.optuna")
    parameters = yaml.safe_load(path.read_text())["parameters"]
    ours = distributions(read_space(path))
    assert list(ours) == list(parameters)
    for key, entry in parameters.items():
        expected = theirs.sweep_parameter_to_distribution(entry)
        if any(isinstance(value, list) for value in entry.get("values", ())):
            assert ours[key].choices == tuple(map(text_of, expected.choices))
        else:
            assert ours[key] == expected


@sweep_files
def test_the_schema_of_wandb_accepts_the_file(path):
    schema = pytest.importorskip("sweeps.config.cfg", reason="comes with wandb[sweeps]")
    config = yaml.safe_load(path.read_text())
    assert schema.schema_violations_from_proposed_config(config) == []


def test_what_a_parameter_does_not_say_is_read_as_wandb_does(tmp_path):
    entries = {
        "a": {"min": 1, "max": 4},
        "b": {"min": 1.0, "max": 4},
        "c": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "d": {"values": [1, "x", None, True, [1, 2], {"k": 0.5}]},
        "e": {"value": 3},
    }
    space = read_space(written(tmp_path, parameters=entries))
    assert [(axis.is_whole, axis.step) for axis in space.axes] == [
        (True, None),
        (False, None),
        (False, 0.25),
        (False, None),
    ]
    assert space.axes[3].choices == (1, "x", None, True, "[1,2]", "{k:0.5}")
    assert space.fixed == ("e=3",)
    drawn = [propose(space, (), seed=0, number=number) for number in range(40)]
    assert {point["a"] for point in drawn} == {1, 2, 3, 4}
    assert {point["c"] for point in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_logarithmic_draws_are_uniform_in_the_logarithm():
    space = read_space(SWEEPS[0])
    draws = [propose(space, (), seed=0, number=number) for number in range(200)]
    for axis in space.axes:
        logs = sorted(math.log(point[axis.key] / 0.1) / math.log(50) for point in draws)
        expected = [(i + 0.5) / 200 for i in range(200)]
        distance = max(abs(a - b) for a, b in zip(logs, expected, strict=True))
        assert distance < 1.95 / math.sqrt(200)  # Kolmogorov and Smirnov at 1 in 1000


def test_a_proposal_depends_on_seed_number_and_history_alone():
    space = read_space(SWEEPS[0])
    first = [propose(space, (), seed=3, number=number) for number in range(4)]
    again = [propose(space, (), seed=3, number=number) for number in reversed(range(4))]
    assert first == again[::-1]
    assert len({tuple(point.values()) for point in first}) == 4
    assert first != [propose(space, (), seed=4, number=number) for number in range(4)]


def test_a_grid_is_walked_through_in_order():
    space = read_space(SWEEPS[2])
    points = [propose(space, (), seed=0, number=number) for number in range(21)]
    assert points == space.grid()
    assert points[1] == {"strategy": "dm", "geometry": "fixed"}


def test_bayes_looks_where_it_was_good():
    from optuna.trial import create_trial

    space = read_space(SWEEPS[0])._replace(method="bayes")
    keys = [axis.key for axis in space.axes]
    history = [
        create_trial(
            value=-abs(math.log(x)) - abs(math.log(y)),
            params=dict(zip(keys, (x, y), strict=True)),
            distributions=distributions(space),
        )
        for x in (0.15, 0.4, 1.0, 2.0, 4.0)
        for y in (0.15, 0.4, 1.0, 2.0, 4.0)
    ]
    draws = [propose(space, history, seed=0, number=number) for number in range(25, 45)]
    blind = [propose(space, (), seed=0, number=number) for number in range(25, 45)]

    def distance(points):
        return sum(abs(math.log(value)) for point in points for value in point.values())

    assert distance(draws) < 0.6 * distance(blind)


def test_values_come_out_of_hydra_as_they_went_in():
    values = {"label": "it's (a) {test}", "weight": 1e-07, "list": [1, True, None]}
    config = compose_config(
        f"name={quoted(values['label'])}",
        f"matching.entropy_weight={text_of(values['weight'])}",
        f"stages={text_of(values['list'])}",
    )
    assert (config.name, config.matching.entropy_weight) == (values["label"], values["weight"])
    assert list(config.stages) == values["list"]


def test_drawn_numbers_are_short_and_stay_in_range():
    axis = Axis("c", low=0.12345, high=5.0)
    assert rounded(0.987654, axis) == 0.9877
    assert rounded(0.123451, axis) == 0.1235
    assert rounded(4.99999, axis) == 5.0
    assert rounded(0.12345, axis._replace(low=0.12349)) == 0.1235
    assert rounded(0.12344, axis._replace(low=0.12341, high=0.12344)) == 0.12341


def test_points_have_names_of_their_own():
    names = {name_of_point({"a.b": value}) for value in (1, 1.0, "1", "x/y", "x:y", True)}
    assert len(names) >= 5  # 1 and 1.0 differ as well, for Hydra tells them apart
    assert all("/" not in name for name in names)


REFUSED = {
    "method": ({"method": "annealing"}, r"method of .* must be one of grid, random, bayes"),
    "metric": ({"metric": {"name": "loss", "goal": "minimize"}}, r"must be named 'accuracy'"),
    "goal": ({"metric": {"name": "accuracy", "goal": "up"}}, r"goal of .*got 'up'"),
    "nothing": ({"parameters": {"ipc": {"value": 1}}}, r"varies nothing"),
    "no space": ({"parameters": "no"}, r"has no parameters"),
    "early": ({"early_terminate": {"type": "hyperband"}}, r"says 'early_terminate'"),
    "grid": ({"method": "grid"}, r"is a grid, so geometry.curvature.hyperbolic needs values"),
    "hyphens": ({"command": ["${program}", "${args}"]}, r"\$\{args_no_hyphens\}"),
    "cap": ({"run_cap": 0}, r"run_cap of .* at least 1, got 0"),
    "normal": ({"parameters": {"x": {"distribution": "normal"}}}, r"distribution 'normal'.*knows"),
    "ends": ({"parameters": {"x": {"min": 2, "max": 1}}}, r"min < max, got 2 and 1"),
    "log": ({"parameters": {"x": {**PARAMETERS, "min": 0}}}, r"min must be positive, got 0"),
    "nested": ({"parameters": {"x": {"parameters": {}}}}, r"keys of nested settings .* dots"),
    "bare": ({"parameters": {"x": 3}}, r"parameter x of .* must be a mapping"),
    "silent": ({"parameters": {"x": {}}}, r"must say value, values, or min and max"),
    "odds": ({"parameters": {"x": {"values": [1, 2], "probabilities": [0, 1]}}}, r"equally likely"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_local_sweep_cannot_do_is_refused(name, tmp_path):
    changes, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        read_space(written(tmp_path, **changes))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no sweep file .*: No such file"):
        read_space(tmp_path / "none.yaml")
    path = tmp_path / "torn.yaml"
    path.write_text("parameters: [1,")
    with pytest.raises(InputError, match=r"is not YAML"):
        read_space(path)
