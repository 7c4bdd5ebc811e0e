"""ResNets with instance norm: an independent forward, known sizes, the generator, refusals."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.resnet import ResNet
from geodm_lightning.types import InputError

NAMES = ["resnet_ap10", "resnet18_in"]


def build(name: str, resolution: int = 32, seed: int = 0, **options) -> ResNet:
    network = build_network(
        name, num_classes=5, channels=3, resolution=resolution,
        generator=torch.Generator().manual_seed(seed), **{"width": 8, **options},
    )  # fmt: skip
    assert isinstance(network, ResNet)
    return network


def written_out(network: ResNet, images, *, average: bool):
    """The features by functions alone, from the weights in the order they are made."""
    resolution = images.shape[-1]
    weights = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.GroupNorm)])

    def convolve(maps, stride=1):
        layer = next(weights)
        return F.conv2d(maps, layer.weight, stride=stride, padding=layer.weight.shape[-1] // 2)

    def norm(maps):
        layer = next(weights)
        return F.instance_norm(maps, weight=layer.weight, bias=layer.bias)

    large = resolution > 128
    maps = norm(convolve(images, 2 if large and not average else 1)).relu()
    if resolution > 64:
        kernel = 4 if large else 2
        maps = F.avg_pool2d(maps, kernel) if average else F.max_pool2d(maps, 3, 2, 1)
    for index, block in enumerate(network.blocks):
        halve = index > 0 and len(block.shortcut) > 0
        stride = 2 if halve and not average else 1
        inner = norm(convolve(maps, stride)).relu()
        inner = F.avg_pool2d(inner, 2) if halve and average else inner
        inner = norm(convolve(inner))
        if halve:
            maps = convolve(maps, stride)
            maps = norm(F.avg_pool2d(maps, 2) if average else maps)
        maps = (inner + maps).relu()
    return maps.flatten(2).mean(2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", [28, 96, 160])
def test_features_equal_the_layers_written_out(name, resolution, device, rng):
    network = build(name, resolution).to(device)
    for parameter in network.parameters():  # affine norms that are not the identity
        nn.init.normal_(parameter, std=0.2, generator=rng)
    images = torch.randn(2, 3, resolution, resolution, generator=rng, device=device)
    features = network.embed(images)
    expected = written_out(network, images, average=name == "resnet_ap10")
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
    expected = features @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_resnet18_has_the_parameters_of_resnet18():
    """Norms scale and shift whatever they average over; classes and channels are equal."""
    ours = build_network(
        "resnet18_in", num_classes=1000, channels=3, resolution=224,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    shapes = sorted(tuple(p.shape) for p in ours.parameters())
    theirs = timm.create_model("resnet18")
    assert shapes == sorted(tuple(p.shape) for p in theirs.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_an_image_do_not_depend_on_its_batch(name, device, rng):
    network = build(name).to(device).train()
    images = torch.randn(3, 3, 32, 32, generator=rng, device=device)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_generator_alone(name):
    before = torch.get_rng_state()
    first, second, other = build(name), build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    address = first.classifier.weight.data_ptr()
    for own, same in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(own, same)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    first.reset_parameters(torch.Generator().manual_seed(1))
    for own, same in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, same)
    assert first.classifier.weight.data_ptr() == address


def test_initialisation_is_he_normal_by_fan_out():
    for layer in build("resnet18_in", width=32).modules():
        if isinstance(layer, nn.Conv2d):
            expected = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            num = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * num))
            assert abs(layer.weight.mean().item()) < 6 * expected / math.sqrt(num)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 8}, "shrinks 8 px images to one pixel"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"depth": 10}, "unknown ResNet option 'depth'; valid: width"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        build("resnet_ap10", **arguments)


def test_refuses_an_unknown_depth():
    with pytest.raises(InputError, match="depth must be one of 10, 18: 34"):
        ResNet(num_classes=2, channels=1, resolution=32, generator=torch.Generator(), depth=34)
