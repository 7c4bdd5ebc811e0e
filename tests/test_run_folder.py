import pytest

from geodm_lightning.run_folder import RunFolder
from geodm_lightning.types import InputError
from tests.experiment import compose_settings


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "digits_ipc10" / "0")
    folder.open(compose_settings(), {"python": "3"})
    return folder


def test_the_same_settings_may_come_back(folder):
    folder.open(compose_settings(), {"python": "4"})
    assert '"3"' in folder.environment.read_text()


@pytest.mark.parametrize(
    "free",
    ["trainer.devices=2", "stages=[report]", "data.root=/elsewhere", "logger=wandb", "num_seeds=3"],
)
def test_what_does_not_change_the_result_may_change(folder, free):
    folder.check_same(compose_settings(free))


def test_other_settings_are_named_and_a_free_name_is_offered(folder):
    before = folder.config.read_text()
    with pytest.raises(InputError) as caught:
        folder.open(compose_settings("ipc=5", "geometry=fixed"), {})
    message = str(caught.value)
    assert "ipc (10 there, 5 now)" in message
    assert "geometry.learn_curvature (True there, False now)" in message
    assert message.endswith("name=digits_ipc10_2")
    assert "distiller" not in message
    assert folder.config.read_text() == before


def test_a_damaged_config_is_named(folder):
    folder.config.write_text("a: [")
    with pytest.raises(InputError, match=r"damaged .*config.yaml"):
        folder.check_same(compose_settings())
