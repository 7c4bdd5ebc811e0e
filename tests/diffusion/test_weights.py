import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from geodm_lightning.diffusion.autoencoder import build_autoencoder
from geodm_lightning.diffusion.weights import (
    identity_of,
    load_autoencoder,
    load_transformer,
    save_weights,
)
from geodm_lightning.types import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def transformer(make_transformer):
    return make_transformer(dtype=torch.float32)


@pytest.fixture
def folder(tmp_path, transformer):
    return save_weights(transformer, tmp_path / "model")


@pytest.fixture
def autoencoder():
    generator = torch.Generator().manual_seed(0)
    return build_autoencoder(3, widths=(8, 16), latent_channels=4, generator=generator)


def change(folder, alter):
    tensors = load_file(folder / WEIGHTS)
    alter(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_transformer_comes_back_as_it_was(transformer, folder, capfd):
    loaded = load_transformer(folder)
    assert not loaded.training
    assert identity_of(loaded) == identity_of(transformer)
    for key, value in transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_holds_both_models(tmp_path, transformer, autoencoder):
    save_weights(transformer, tmp_path / "transformer")
    save_weights(autoencoder, tmp_path / "vae")
    assert identity_of(load_transformer(tmp_path)) == identity_of(transformer)
    assert identity_of(load_autoencoder(str(tmp_path))) == identity_of(autoencoder)


def test_the_identity_sees_one_bit_of_one_weight_and_the_configuration(transformer, autoencoder):
    before = identity_of(transformer), identity_of(autoencoder)
    with torch.no_grad():
        weight = transformer.proj_out_2.bias
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    autoencoder.register_to_config(scaling_factor=0.5)
    assert identity_of(transformer) != before[0]
    assert identity_of(autoencoder) != before[1]


def test_missing_weights_say_name_place_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--facebook--DiT-XL-2-256"
    with pytest.raises(InputError) as refusal:
        load_transformer("facebook/DiT-XL-2-256")
    message = str(refusal.value)
    assert "weights of facebook/DiT-XL-2-256 are not here" in message
    assert str(place) in message
    assert "`hf download facebook/DiT-XL-2-256 --include 'transformer/*'`" in message
    assert "\n" not in message
    place.mkdir()
    with pytest.raises(InputError, match="are incomplete or damaged; fetch them with"):
        load_transformer("facebook/DiT-XL-2-256")


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=f"no folder {tmp_path}/none with a DiTTransformer2DModel"):
        load_transformer(tmp_path / "none")
    with pytest.raises(InputError, match=f"no AutoencoderKL in {tmp_path} or {tmp_path}/vae"):
        load_autoencoder(tmp_path)


def test_another_model_is_refused(folder):
    with pytest.raises(InputError, match="holds a DiTTransformer2DModel, not a AutoencoderKL"):
        load_autoencoder(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_weights_are_refused(folder, share):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="damaged DiTTransformer2DModel in") as refusal:
        load_transformer(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda tensors: tensors.pop("proj_out_2.weight"), "1 missing keys, first proj_out_2.weig"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "1 unexpected keys, first more"),
        (lambda tensors: tensors.update({"proj_out_2.bias": torch.zeros(3)}), "proj_out_2.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, alter, reason):
    """Diffusers would start missing weights at random and say so in a log."""
    change(folder, alter)
    with pytest.raises(InputError, match=f"damaged DiTTransformer2DModel in .*{reason}"):
        load_transformer(folder)


def test_missing_files_and_damaged_configurations_are_refused(folder):
    config = folder / "config.json"
    content = config.read_text()
    for damaged in ("{", "", "\ud800".encode("utf-8", "surrogatepass").decode("latin1")):
        config.write_text(damaged)
        with pytest.raises(InputError, match=r"config.json is not JSON"):
            load_transformer(folder)
    config.write_text(json.dumps({**json.loads(content), "num_layers": "many"}))
    with pytest.raises(InputError, match="damaged DiTTransformer2DModel"):
        load_transformer(folder)
    config.write_text(content)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="damaged DiTTransformer2DModel"):
        load_transformer(folder)


def test_an_interrupted_writing_does_not_look_like_a_model(folder, transformer, monkeypatch):
    def interrupted(path):
        path.mkdir()
        (path / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformer, "save_pretrained", interrupted)
    with pytest.raises(InputError, match=r"cannot write the model .*: No space left on device"):
        save_weights(transformer, folder)
    with pytest.raises(InputError, match=r"config.json is missing"):
        load_transformer(folder)
    monkeypatch.undo()
    save_weights(transformer, folder)
    assert identity_of(load_transformer(folder)) == identity_of(transformer)
