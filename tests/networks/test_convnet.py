"""ConvNet: known sizes, independence of the batch, initialisation from a generator."""

import math

import pytest
import torch
from torch import nn

from geodm_lightning.networks.convnet import ConvNet
from geodm_lightning.types import InputError


def generator(seed: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def convnet(channels: int = 3, resolution: int = 32, seed: int = 0, **options: int) -> ConvNet:
    return ConvNet(
        num_classes=10,
        channels=channels,
        resolution=resolution,
        generator=generator(seed),
        **options,
    )


@pytest.mark.parametrize(
    ("channels", "resolution", "num_features"),
    [(3, 32, 2048), (1, 28, 2048), (1, 8, 128), (3, 64, 2048), (3, 128, 2048), (3, 224, 1152)],
)
def test_feature_sizes(channels, resolution, num_features):
    network = convnet(channels, resolution)
    images = torch.zeros(2, channels, resolution, resolution)
    assert network.embed(images).shape == (2, num_features)
    assert network(images).shape == (2, 10)
    assert network.num_features == num_features


def test_parameter_count_of_the_literature():
    assert sum(parameter.numel() for parameter in convnet().parameters()) == 320010


def test_forward_equals_the_blocks_written_out(device, rng):
    network = convnet(seed=3).to(device)
    for parameter in network.parameters():  # affine norms that are not the identity
        nn.init.normal_(parameter, std=0.2, generator=rng)
    images = torch.randn(4, 3, 32, 32, generator=rng, device=device)
    features = images
    for index in range(3):
        convolution, norm = network.blocks[4 * index], network.blocks[4 * index + 1]
        features = nn.functional.conv2d(features, convolution.weight, convolution.bias, padding=1)
        features = nn.functional.instance_norm(features, weight=norm.weight, bias=norm.bias)
        features = nn.functional.avg_pool2d(features.relu(), 2)
    torch.testing.assert_close(network.embed(images), features.flatten(1), rtol=1e-4, atol=1e-4)
    expected = features.flatten(1) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_features_of_an_image_do_not_depend_on_its_batch(device, rng):
    network = convnet().to(device).train()
    images = torch.randn(6, 3, 32, 32, generator=rng, device=device)
    together = network.embed(images)
    alone = torch.cat([network.embed(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_same_generator_state_gives_the_same_weights(device):
    network = convnet(seed=1).to(device)
    address = network.classifier.weight.data_ptr()
    network.reset_parameters(generator(2))
    for own, other in zip(network.parameters(), convnet(seed=2).parameters(), strict=True):
        assert torch.equal(own.cpu(), other)  # a CPU generator gives one network on all devices
    assert network.classifier.weight.data_ptr() == address
    first = network.classifier.weight.clone()
    network.reset_parameters(generator(5, device))
    assert not torch.equal(network.classifier.weight, first)
    second = network.classifier.weight.clone()
    network.reset_parameters(generator(5, device))
    assert torch.equal(network.classifier.weight, second)


def test_initialisation_is_that_of_torch():
    network = convnet()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            expected = bound / math.sqrt(3)  # of U(−bound, bound)
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
            reference = type(layer).reset_parameters  # torch's own draw has the same spread
            layer_std = layer.weight.std()
            with torch.random.fork_rng():
                reference(layer)
            assert layer.weight.std().item() == pytest.approx(layer_std.item(), rel=0.05)
        elif isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    convnet().reset_parameters(generator(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2}, "depth must be 3 to 6, got 2"),
        ({"depth": 7}, "depth must be 3 to 6, got 7"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"depth": 6}, "depth 6 halves 32 px images to nothing"),
    ],
)
def test_impossible_shapes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        convnet(**options)
