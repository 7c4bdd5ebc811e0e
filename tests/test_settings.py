"""Bad values are refused with one line that names them and what would do."""

import pytest

from geodm_lightning.settings import check_settings, choose_accelerator, shortened
from geodm_lightning.types import InputError
from tests.experiment import compose_settings

REFUSED = {
    "ipc=0": r"ipc must be a whole number of at least 1, got 0",
    "ipc=2.5": r"ipc must be a whole number of at least 1, got 2.5",
    "ipc=ten": r"ipc must be a whole number of at least 1, got 'ten'",
    "ipc=null": r"ipc must be a whole number of at least 1, got None",
    "ipc=true": r"ipc must be a whole number of at least 1, got True",
    "seed=-1": r"seed must be a whole number of at least 0, got -1",
    "transport.epsilon=0": r"transport.epsilon must be a number above 0, got 0",
    "transport.epsilon=-0.1": r"transport.epsilon must be a number above 0, got -0.1",
    "transport.epsilon=nan": r"transport.epsilon must be a number above 0, got nan",
    "transport.epsilon=inf": r"transport.epsilon must be a number above 0, got inf",
    "matching.transport_weight=-1": r"matching.transport_weight must be a number of at least 0",
    "distiller.real_batch=0": r"distiller.real_batch must be a whole number",
    "distiller.image_optimizer.lr=0": r"distiller.image_optimizer.lr must be a number above 0",
    "schedule.max_iterations=0": r"schedule.max_iterations must be .* or null, got 0",
    "trainer.devices=0": r"trainer.devices must be a whole number of at least 1",
    "trainer.accelerator=tpu": r"unknown trainer.accelerator 'tpu'; choose one of auto, cpu, gpu",
    "trainer.strategy=fsdp": r"unknown trainer.strategy 'fsdp'; choose one of auto, ddp",
    "trainer.precision=8": r"unknown trainer.precision 8; choose one of auto, 32-true",
    "logger.kind=tensorboard": r"unknown logger.kind 'tensorboard'; choose one of csv, wandb",
    "stages=[train]": r"unknown entry 'train' in stages; choose among distill, relabel",
    "baselines=[dc]": r"unknown entry 'dc' in baselines; choose among random, mosaic, herding",
    "name=a/b": r"name must be usable as a folder name, got 'a/b'",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_bad_value_is_named(override):
    with pytest.raises(InputError, match=REFUSED[override]) as caught:
        check_settings(compose_settings(override))
    assert "\n" not in str(caught.value)


def test_the_default_is_accepted():
    check_settings(compose_settings())


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"trainer.devices=9999, but \d+ processor cores are"):
        choose_accelerator({"accelerator": "cpu", "devices": 9999})


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert choose_accelerator({"accelerator": "auto", "devices": 1}) == "cpu"
    with pytest.raises(InputError, match=r"no GPU is visible; use trainer.accelerator=cpu"):
        choose_accelerator({"accelerator": "gpu", "devices": 1})


def test_a_dry_run_has_a_folder_of_its_own():
    settings = compose_settings("dry_run=true")
    short = shortened(settings)
    assert short["name"] == "digits_ipc10_dry_run"
    assert short["schedule"]["max_iterations"] == 2
    assert settings["name"] == "digits_ipc10"
    assert shortened({**settings, "dry_run": False})["name"] == "digits_ipc10"


def test_a_dry_run_takes_two_steps_of_a_sampler():
    settings = compose_settings("+experiment=digits_generative_ipc10", "dry_run=true")
    shorter = shortened(settings)
    assert shorter["generator"]["num_steps"] == 2
    assert shorter["name"] == "digits_generative_ipc10_dry_run"
    assert settings["generator"]["num_steps"] == 50
    assert shortened(compose_settings("dry_run=true"))["generator"] == {"transformer": None}
