"""Every experiment and option composes and can be built."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.command_line import CONFIGS, list_experiments
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.methods import methods_of
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.settings import check_settings
from geodm_lightning.types import InputError
from tests.experiment import compose_settings

EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("experiment/*.yaml"))
UNFINISHED = {"imagenet1k_ipc10"}
GROUPS = ("data", "network", "pool", "geometry", "transport", "evaluation", "trainer", "logger")


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - UNFINISHED))
def test_every_experiment_composes_and_builds(name):
    settings = compose_settings(f"+experiment={name}")
    check_settings(settings)
    assert settings["name"] == name
    assert f"_ipc{settings['ipc']}" in name
    assert name.startswith(settings["data"]["name"])
    spec = dataset_spec(settings["data"]["name"])
    assembly.check_buildable(settings, spec)
    network = assembly.network_builder(settings["network"], spec)(torch.Generator())
    assert isinstance(RandomPool(lambda _: network, 0).network(0), type(network))
    for key in ("image_optimizer", "geometry_optimizer"):
        optimizer = assembly.instantiate(settings["distiller"][key])([torch.zeros(1)])
        assert optimizer.param_groups[0]["lr"] == settings["distiller"][key]["lr"]


@pytest.mark.parametrize("name", sorted(UNFINISHED))
def test_what_cannot_run_yet_refuses(name):
    with pytest.raises(InputError, match=f"experiment '{name}' needs transport-guided diffusion"):
        check_settings(compose_settings(f"+experiment={name}"))


def test_published_schedules_are_uncut():
    for name in set(EXPERIMENTS) - UNFINISHED:
        if name.startswith("digits"):
            continue
        settings = compose_settings(f"+experiment={name}")
        assert assembly.num_iterations(settings) == 20_000
        protocol = assembly.build_protocol(settings, dataset_spec(settings["data"]["name"]))
        assert (protocol.name, protocol.epochs) == (("C", 2000) if "ncfm" in name else ("A", 1000))
        assert protocol.fraction == 1.0


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - UNFINISHED))
def test_quick_shortens_and_says_so(name):
    settings = compose_settings(f"+experiment={name}", "schedule=quick")
    assert settings["schedule"]["name"] == "quick"
    assert assembly.num_iterations(settings) <= 300
    spec = dataset_spec(settings["data"]["name"])
    assert assembly.build_protocol(settings, spec).fraction < 1


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_composes(group):
    for path in (CONFIGS / group).glob("*.yaml"):
        check_settings(compose_settings(f"{group}={path.stem}"))


def test_the_list_has_one_line_per_experiment():
    lines = list_experiments().splitlines()
    assert sorted(line.split()[0] for line in lines) == EXPERIMENTS
    assert all(len(line.split()) > 4 for line in lines)


def test_methods_of_a_flat_run_do_not_name_the_base_twice():
    flat = compose_settings("geometry=euclidean", "matching.transport_weight=0")
    assert [m.key for m in methods_of(flat)] == ["random", "herding", "dm", "whole"]
    curved = methods_of(compose_settings())
    assert [m.key for m in curved] == ["random", "herding", "dm", "geodm", "whole"]
    assert [m.label for m in curved if m.is_main] == ["GeoDM"]
