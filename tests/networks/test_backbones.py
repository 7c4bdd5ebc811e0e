"""Networks by name: the own ones, timm's, and refusals."""

import pytest
import torch

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.network import Network
from geodm_lightning.types import InputError

TIMM = ["resnet18", "vit_tiny_patch16_224"]


def build(name: str, seed: int = 0, resolution: int = 32, channels: int = 3, **options) -> Network:
    return build_network(
        name,
        num_classes=7,
        channels=channels,
        resolution=resolution,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@pytest.mark.parametrize(
    ("name", "resolution", "num_blocks"),
    [("convnet", 32, 3), ("convnet", 64, 4), ("convnet", 128, 5), ("convnet_d4", 32, 4)],
)
def test_convnet_depth(name, resolution, num_blocks):
    assert len(build(name, resolution=resolution).blocks) == 4 * num_blocks


def test_convnet_options_win_over_the_name():
    network = build("convnet", depth=4, width=16)
    assert network.num_features == 16 * 2**2


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_model_is_a_network(name, channels):
    network = build(name, channels=channels).eval()
    images = torch.rand(2, channels, 32, 32)
    features = network.embed(images)
    assert features.shape == (2, network.num_features)
    assert network(images).shape == (2, 7)
    head = network.model.get_classifier()
    torch.testing.assert_close(head(features), network(images))


@pytest.mark.parametrize("name", TIMM)
def test_timm_weights_come_from_the_generator_alone(name):
    before = torch.get_rng_state()
    first = build(name, seed=1)
    torch.rand(1)  # the global state must not matter
    after = torch.get_rng_state()
    second, other = build(name, seed=1), build(name, seed=2)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)
    weight = first.model.get_classifier().weight
    assert torch.equal(weight, second.model.get_classifier().weight)
    assert not torch.equal(weight, other.model.get_classifier().weight)
    address = weight.data_ptr()
    first.reset_parameters(torch.Generator().manual_seed(2))
    states = zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(own, fresh) for own, fresh in states)
    assert first.model.get_classifier().weight.data_ptr() == address


def test_building_leaves_train_mode_and_statistics_untouched():
    network = build("resnet18")
    assert network.training
    assert network.model.bn1.training
    assert network.model.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, r"unknown network 'resnet81'; own networks: convnet, .*resnet"),
        ({"name": "hf-hub:someone/model"}, "unknown network"),
        ({"name": "convnet_d9"}, "unknown network 'convnet_d9'"),
        ({"name": "convnet", "height": 3}, "unknown ConvNet option 'height'; valid: depth, width"),
        (
            {"name": "vit_tiny_patch16_224", "resolution": 8},
            "cannot take 3×8×8 images: .*choose another network",
        ),
        ({"name": "resnet18", "nonsense": 1}, "nonsense"),
    ],
)
def test_bad_names_and_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build(**arguments)
