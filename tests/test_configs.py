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
GENERATIVE = {
    path.stem
    for path in CONFIGS.glob("experiment/*.yaml")
    if "guided_diffusion" in path.read_text(encoding="utf-8")
}
TRAINED_HERE = {name for name in GENERATIVE if "_generative_" in name}  # nothing is downloaded
MATCHED = sorted(set(EXPERIMENTS) - GENERATIVE)
GROUPS = (
    "data",
    "network",
    "pool",
    "geometry",
    "transport",
    "matching",
    "strategy",
    "evaluation",
    "architectures",
    "guidance",
    "trainer",
    "logger",
    "variants",
)
PUBLISHED_EPOCHS = {"tiny_imagenet_ipc10_ncfm": 300, "tiny_imagenet_ipc50_ncfm": 40}  # else 2000


def spec_of(settings):
    spec = dataset_spec(settings["data"]["name"])
    return spec._replace(resolution=settings["data"]["resolution"] or spec.resolution)


@pytest.mark.parametrize("name", MATCHED)
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


@pytest.mark.parametrize("name", sorted(TRAINED_HERE))
def test_experiments_that_train_their_models_can_be_built(name):
    settings = compose_settings(f"+experiment={name}")
    for row in methods_of(settings):
        check_settings(row.settings)
    assert settings["name"] == name
    assert name.startswith(settings["data"]["name"])
    assembly.check_buildable(settings, spec_of(settings))


@pytest.mark.parametrize("name", sorted(GENERATIVE - TRAINED_HERE))
def test_experiments_on_published_models_say_which_weights_they_lack(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = compose_settings(f"+experiment={name}")
    check_settings(settings)
    assert settings["name"] == name
    assert f"_ipc{settings['ipc']}" in name
    assert settings["schedule"]["name"] == "full"
    settings = {**settings, "supervision": {"hard": {"label": "Hard labels"}}}
    with pytest.raises(InputError, match=r"facebook/DiT-XL-2-256|stabilityai/sd-vae-ft-mse") as it:
        assembly.check_buildable(settings, spec_of(settings))
    assert "\n" not in str(it.value)
    assert str(tmp_path) in str(it.value)


def test_guided_runs_have_their_own_rows():
    settings = compose_settings("+experiment=digits_generative_ipc10", "variants=guidance")
    rows = methods_of(settings)
    made = ["unguided", "deviation", "transport", "clean", "product", "otg"]
    assert [row.key for row in rows] == ["random", *made]
    assert {row.kind for row in rows[1:]} == {"generation"}
    by_key = {row.key: row.settings["guidance"] for row in rows}
    assert by_key["deviation"]["transport"] is None
    assert by_key["deviation"]["deviation"] == by_key["otg"]["deviation"]
    assert by_key["unguided"]["transport"] is by_key["unguided"]["deviation"] is None
    assert by_key["product"]["transport"]["ground"] == "product"
    unguided = compose_settings("+experiment=digits_generative_ipc10", "guidance=none")
    assert [row.key for row in methods_of(unguided)] == ["random", "unguided"]


def test_published_schedules_are_uncut():
    for name in MATCHED:
        if name.startswith("digits"):
            continue
        settings = compose_settings(f"+experiment={name}")
        assert assembly.num_iterations(settings) == 20_000
        protocol = assembly.build_protocol(settings, dataset_spec(settings["data"]["name"]))
        ncfm = ("C", PUBLISHED_EPOCHS.get(name, 2000))
        assert (protocol.name, protocol.epochs) == (ncfm if "ncfm" in name else ("A", 1000))
        assert protocol.fraction == 1.0


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if "_ipc10" in n else pytest.mark.slow) for n in MATCHED],
)
def test_quick_shortens_and_says_so(name):
    settings = compose_settings(f"+experiment={name}", "schedule=quick")
    assert settings["schedule"]["name"] == "quick"
    assert assembly.num_iterations(settings) <= 300
    spec = dataset_spec(settings["data"]["name"])
    protocol = assembly.build_protocol(settings, spec)
    assert protocol.epochs <= 200
    assert protocol.fraction == protocol.epochs / protocol.published_epochs


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_composes(group):
    for path in (CONFIGS / group).glob("*.yaml"):
        check_settings(compose_settings(f"{group}={path.stem}"))


@pytest.mark.parametrize("group", ["generator", "teachers", "supervision"])
def test_every_option_of_a_guided_run_composes(group):
    for path in (CONFIGS / group).glob("*.yaml"):
        if path.stem != "none":
            overrides = ["+experiment=digits_generative_ipc10", f"{group}={path.stem}"]
            if path.stem.startswith("own"):  # labels that came with a set
                overrides += ["distiller=imported", "distiller.path=x"]
            check_settings(compose_settings(*overrides))


def test_the_list_has_one_line_per_experiment():
    lines = list_experiments().splitlines()
    assert sorted(line.split()[0] for line in lines) == EXPERIMENTS
    assert all(len(line.split()) > 4 for line in lines)


def test_methods_of_a_flat_run_do_not_name_the_base_twice():
    flat = compose_settings("geometry=euclidean", "matching.transport_weight=0")
    assert [m.key for m in methods_of(flat)] == ["random", "herding", "dm", "whole"]
    curved = methods_of(compose_settings())
    assert [m.key for m in curved] == ["random", "herding", "dm", "control", "geodm", "whole"]
    assert [m.label for m in curved if m.is_main] == ["GeoDM"]


@pytest.mark.parametrize("strategy", sorted(p.stem for p in CONFIGS.glob("strategy/*.yaml")))
def test_every_strategy_can_be_built_and_flattened(strategy):
    settings = compose_settings(f"strategy={strategy}")
    for row in methods_of(settings):
        if row.kind == "matching":
            assembly.check_buildable(row.settings, dataset_spec("digits"))


@pytest.mark.parametrize("variants", ["ablation", "degeneracy", "hdd", "modes", "strategies"])
def test_every_variant_can_be_built(variants):
    rows = methods_of(compose_settings(f"variants={variants}"))
    assert len({row.key for row in rows}) == len(rows)
    assert len({row.label for row in rows}) == len(rows)
    for row in rows:
        if row.kind == "matching":
            check_settings(row.settings)
            assembly.check_buildable(row.settings, dataset_spec("digits"))


def test_rates_grow_with_ipc_where_they_are_published_so():
    for ipc, lr in ((1, 0.01), (10, 0.1)):
        optimizer = compose_settings("strategy=dsdm", f"ipc={ipc}")["distiller"]["image_optimizer"]
        assert optimizer["lr"] == pytest.approx(lr)


GUIDED = "+experiment=digits_generative_ipc10"
REFUSED = {
    "strategy=dsdm ipc=1 distiller.factor=1 distiller.initialisation=real": (
        r"DSDM needs at least 2 synthetic images per class .*distiller.factor=2.*or ipc=2"
    ),
    "geometry=split geometry.dims=[16,8,16]": r"dims \[16, 8, 16\] sum to 40, not to the 32",
    "geometry=split geometry.dims=[16,16]": r"dims \[16, 16\] must have one entry for each",
    "geometry=stereographic transport=sliced": r"sliced.*stereographic|stereographic.*slice",
    "transport=exact transport.gradient=implicit": r"implicit",
    "transport.solver=simplex": r"sinkhorn, exact, sliced, got 'simplex'",
    "transport.ground=features": r"product, factors, dominant, got 'features'",
    "matching=m3d matching.base.kernel=cosine": r"cosine.*gaussian",
    "distiller.calibration_weight=1": r"calibration_weight=1 needs networks trained.*pool=trained",
    "geometry.learning=greedy": r"greedy.*fixed, joint, adversarial, from_real",
    "matching.sampler={optimizer:{lr:1}}": r"DM has none; use strategy=ncfm_sampler",
    "distiller=guided_diffusion": r"samples from a diffusion model, but there is none.*generator=",
    "supervision=soft": r"'lia' needs teachers, but there are none.*teachers=NAME",
    "supervision=soft teachers=trained_small": r"protocol A has no views",
    f"{GUIDED} guidance.transport.window=[0.9,0.6]": r"window must be two",
    f"{GUIDED} guidance.transport.through=noise": r"choose one of latent, clean",
    f"{GUIDED} generator.class_labels=[1,2]": r"lists 2 different labels, digits has 10 classes",
    f"{GUIDED} generator.class_labels=imagenet": r"class '0' is no WordNet folder",
    "matching.history={weight:1,decay:2,start_share:0}": r"decay must lie in \[0, 1\], got 2",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_impossible_combinations_are_refused_with_the_reason(overrides):
    settings = compose_settings(*overrides.split())

    def check():
        check_settings(settings)
        assembly.check_buildable(settings, dataset_spec("digits"))

    with pytest.raises(InputError, match=REFUSED[overrides]) as caught:
        check()
    assert "\n" not in str(caught.value)


def test_a_variant_may_not_change_what_all_rows_share():
    settings = {**compose_settings(), "variants": {"other": {"network": {"width": 8}}}}
    with pytest.raises(InputError, match=r"'other' changes 'network', which all rows .* share"):
        methods_of(settings)


def test_a_variant_with_an_unknown_key_is_named():
    settings = {**compose_settings(), "variants": {"odd": {"geometry": {"factor": 1}}}}
    with pytest.raises(InputError, match=r"variants.odd.geometry.factor is not a setting"):
        methods_of(settings)


def test_a_variant_with_the_name_of_a_row_is_refused():
    settings = {**compose_settings(), "variants": {"geodm": {}}}
    with pytest.raises(InputError, match="variant 'geodm' has the name of another row"):
        methods_of(settings)
