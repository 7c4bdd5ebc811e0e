"""AlexNet, VGG-11 and ViT: an independent forward, known sizes, the generator, refusals."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.types import InputError

SHAPES = [(1, 28), (3, 32), (3, 64), (3, 128)]
NAMES = ["alexnet", "vgg11_in", "vit"]


def build(name, channels=3, resolution=32, seed=0, **options):
    return build_network(
        name, num_classes=5, channels=channels, resolution=resolution,
        generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip


def written_out(network, images, steps):
    """Features by functions alone; ``steps`` are ``c`` with its padding, ``n``, ``r`` and ``m``."""
    weights = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.GroupNorm)])
    maps = images
    for step in steps:
        if step == "r":
            maps = maps.relu()
        elif step == "m":
            maps = F.max_pool2d(maps, 2)
        elif step == "n":
            layer = next(weights)
            maps = F.instance_norm(maps, weight=layer.weight, bias=layer.bias)
        else:
            layer = next(weights)
            maps = F.conv2d(maps, layer.weight, layer.bias, padding=int(step))
    return maps


@pytest.mark.parametrize(("channels", "resolution"), SHAPES)
def test_features_equal_the_layers_written_out(channels, resolution, device, rng):
    images = torch.randn(2, channels, resolution, resolution, generator=rng, device=device)
    alexnet = build("alexnet", channels, resolution).to(device)
    first = "4" if channels == 1 else "2"
    maps = written_out(alexnet, images, [*first, *"rm2rm1r1r1rm"])
    torch.testing.assert_close(alexnet.embed(images), maps.flatten(1), rtol=1e-4, atol=1e-5)
    assert maps.shape[-1] == (4 if resolution <= 32 else resolution // 8)
    vgg = build("vgg11_in", channels, resolution).to(device)
    for parameter in vgg.parameters():  # affine norms that are not the identity
        nn.init.normal_(parameter, std=0.1, generator=rng)
    first = "3" if channels == 1 else "1"
    maps = written_out(vgg, images, [*first, *"nrm1nrm1nr1nrm1nr1nrm1nr1nrm"])
    assert maps.shape[-1] == (1 if resolution <= 32 else resolution // 32)
    expected = maps.flatten(2).mean(2)
    torch.testing.assert_close(vgg.embed(images), expected, rtol=1e-3, atol=1e-3)
    for network in (alexnet, vgg):
        features = network.embed(images)
        expected = features @ network.classifier.weight.T + network.classifier.bias
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_published_networks():
    """VGG-11 has timm's convolutions and norms; its linear layers are one of 512 features."""
    shapes = sorted(tuple(p.shape) for p in build("vgg11_in").blocks.parameters())
    theirs = timm.create_model("vgg11_bn").features
    assert shapes == sorted(tuple(p.shape) for p in theirs.parameters())
    assert build("vgg11_in").num_features == 512
    assert build("alexnet").num_features == build("alexnet", 1, 28).num_features == 192 * 16


@pytest.mark.parametrize(("channels", "resolution"), SHAPES)
def test_a_patch_is_a_token(channels, resolution, device, rng):
    """Attention without positions does not see the order of the patches."""
    network = build("vit", channels, resolution, depth=1, width=64).to(device).eval()
    nn.init.zeros_(network.model.pos_embed)
    patch = network.model.patch_embed.patch_size[0]
    assert resolution // patch in (7, 8)
    images = torch.randn(2, channels, resolution, resolution, generator=rng, device=device)
    rolled = images.roll((patch, 2 * patch), (2, 3))
    torch.testing.assert_close(network.embed(rolled), network.embed(images), rtol=1e-4, atol=1e-4)
    apart = images.roll(patch // 2, 3)
    assert not torch.allclose(network.embed(apart), network.embed(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_an_image_do_not_depend_on_its_batch(name, device, rng):
    network = build(name).to(device).train()
    images = torch.randn(3, 3, 32, 32, generator=rng, device=device)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_generator_alone(name):
    before = torch.get_rng_state()
    first, second, other = build(name), build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for own, same in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(own, same)
    weight = next(first.parameters())
    first.reset_parameters(torch.Generator().manual_seed(1))
    for own, same in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, same)
    assert next(first.parameters()) is weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg11_in", "resolution": 28}, "VGG-11 shrinks 28 px images to one pixel"),
        ({"name": "alexnet", "resolution": 7}, "AlexNet halves 7 px images to nothing"),
        ({"name": "alexnet", "width": 7}, "unknown AlexNet option 'width'; valid: none"),
        ({"name": "vit", "patch": 5}, "patches of 5 px do not divide 32 px images"),
        ({"name": "vit", "width": 96}, "width in steps of 64: 6, 96"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        build(**arguments)
