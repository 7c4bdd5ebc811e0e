"""Blocks in few passes are the layers one after the other."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from geodm_lightning.networks import blocks
from geodm_lightning.networks.convnet import ConvNet
from geodm_lightning.networks.stack import NetworkStack
from tests.kernels import needs_kernels


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def convnet(channels=3, resolution=32, **options):
    generator = torch.Generator().manual_seed(1)
    shape = {"num_classes": 10, "channels": channels, "resolution": resolution}
    return ConvNet(**shape, generator=generator, **{"width": 128, **options}).requires_grad_(False)


def draw_norms(network, rng):
    """Give the norms weights of both signs and of 0, and constants."""
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.weight.normal_(generator=rng)[:4] = 0
            layer.bias.normal_(generator=rng)[2:6] = 0
            layer.eps = 0.3


def is_fused(network, images, monkeypatch):
    with monkeypatch.context() as context:
        called = []
        ours = blocks.embed
        context.setattr(blocks, "embed", lambda *values: called.append(1) or ours(*values))
        network.embed(images)
    return bool(called)


@needs_kernels
@pytest.mark.parametrize(
    ("channels", "resolution", "num_images"), [(3, 32, 35), (1, 28, 16), (3, 16, 64), (3, 64, 16)]
)
def test_features_are_those_of_the_layers(rng, monkeypatch, channels, resolution, num_images):
    network = convnet(channels, resolution)
    draw_norms(network, rng)
    images = torch.randn(num_images, channels, resolution, resolution, generator=rng)
    images += torch.randn(num_images, channels, 1, 1, generator=rng) * 5  # far from mean 0
    assert is_fused(network, images, monkeypatch)
    exact = network.double().blocks(images.double()).flatten(1)
    features = network.float().embed(images)
    assert (features - exact).abs().max() <= 1e-4 * exact.abs().max()


@needs_kernels
def test_what_the_norms_take_away_leaves_nothing():
    assert not convnet().embed(torch.zeros(16, 3, 32, 32)).any()


def test_numbers_that_are_none_stay_none(rng):
    images = torch.randn(16, 3, 32, 32, generator=rng)
    images[3, 0, 4, 4] = torch.nan
    features = convnet().embed(images)
    assert features[3].isnan().all()
    assert not features[:3].isnan().any()


def test_an_image_does_not_depend_on_the_images_beside_it(rng):
    network, images = convnet(), torch.randn(35, 3, 32, 32, generator=rng)
    others = torch.randn(16, 3, 32, 32, generator=rng)
    beside = torch.cat([network.embed(torch.cat([i[None], others]))[:1] for i in images[::7]])
    assert torch.equal(network.embed(images)[::7], beside)


@needs_kernels
def test_layers_run_one_after_the_other_where_that_is_asked_or_needed(rng, monkeypatch):
    images = torch.randn(16, 3, 32, 32, generator=rng)
    fused = lambda network, images=images: is_fused(network, images, monkeypatch)  # noqa: E731
    assert fused(convnet())
    assert not fused(convnet(convolution="direct"))
    assert not fused(convnet(), images[:7])  # too few to transform kernels for
    assert not fused(convnet(width=16))
    assert not fused(convnet(resolution=36), torch.randn(16, 3, 36, 36, generator=rng))
    assert not fused(convnet().double(), images.double())
    assert not fused(convnet(), images.clone().requires_grad_())
    assert not fused(convnet().requires_grad_())
    with torch.no_grad():
        assert fused(convnet().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused(convnet())
    swapped = convnet()
    swapped.blocks[3] = nn.AvgPool2d(2)
    assert not fused(swapped)


def test_hooks_see_what_layers_give(rng):
    network, images, seen = convnet(), torch.randn(16, 3, 32, 32, generator=rng), []
    network.blocks[4].register_forward_hook(lambda layer, given, result: seen.append(result))
    network.embed(images)
    (maps,) = seen
    torch.testing.assert_close(maps, network.blocks[:5](images))


def test_functions_of_weights_may_be_mapped(rng):
    networks = [convnet(), convnet()]
    networks[1].reset_parameters(torch.Generator().manual_seed(2))
    images = torch.randn(2, 16, 3, 32, 32, generator=rng)
    weights = {
        name: torch.stack([network.get_parameter(name) for network in networks])
        for name, _ in networks[0].named_parameters()
    }
    mapped = vmap(lambda own, images: functional_call(networks[0], own, (images,)))
    expected = torch.stack([n(i) for n, i in zip(networks, images, strict=True)])
    torch.testing.assert_close(mapped(weights, images), expected, rtol=1e-4, atol=1e-4)
    stacked = NetworkStack(networks)(images)
    torch.testing.assert_close(stacked, expected, rtol=1e-4, atol=1e-4)
