"""Which convolution is taken follows from shapes alone, and is the convolution."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional

from geodm_lightning.networks import winograd
from geodm_lightning.networks.convolution import Convolution
from geodm_lightning.networks.resnet import ResNet
from geodm_lightning.types import InputError
from tests.kernels import needs_kernels


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def tiles_of(layer, maps, monkeypatch):
    """Return the convolution's result, and whether Winograd's made it."""
    with monkeypatch.context() as context:
        called, ours = [], winograd.convolve
        context.setattr(
            winograd,
            "convolve",
            lambda *values, **options: called.append(1) or ours(*values, **options),
        )
        return layer(maps), bool(called)


def without(options, name):
    return {key: value for key, value in options.items() if key != name}


@needs_kernels
@pytest.mark.parametrize(
    ("options", "size", "taken"),
    [
        ({}, (16, 128, 8, 8), True),
        ({"bias": False}, (4, 128, 16, 16), True),
        ({"channels_last": True}, (16, 128, 7, 7), True),
        ({"width": 32}, (16, 32, 8, 8), True),
        ({"width": 48}, (16, 48, 8, 8), False),  # no whole vectors of every processor
        ({}, (7, 128, 8, 8), False),  # too few tiles
        ({}, (64, 128, 3, 3), False),  # mostly padding
        ({"stride": 2}, (16, 128, 16, 16), False),
        ({"groups": 2}, (16, 128, 8, 8), False),
        ({"dilation": 2}, (16, 128, 16, 16), False),
        ({"padding_mode": "reflect"}, (16, 128, 8, 8), False),
        ({"algorithm": "direct"}, (16, 128, 8, 8), False),
    ],
)
def test_winograd_is_taken_where_it_is_faster(rng, monkeypatch, options, size, taken):
    width = options.get("width", 128)
    layer = Convolution(width, width, 3, **{"padding": 1, **without(options, "width")})
    maps = torch.randn(size, generator=rng)
    result, is_taken = tiles_of(layer, maps, monkeypatch)
    assert is_taken is taken
    assert result.is_contiguous() is not options.get("channels_last", False)
    expected = layer._conv_forward(maps, layer.weight, layer.bias)
    bound = 2e-5 * expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=0, atol=bound)


def test_it_is_not_taken_in_other_types_or_under_transforms(rng, monkeypatch):
    layer, maps = Convolution(128, 128, 3, padding=1), torch.randn(16, 128, 8, 8, generator=rng)
    assert not tiles_of(layer.double(), maps.double(), monkeypatch)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not tiles_of(layer.float(), maps, monkeypatch)[1]
    weights = {name: torch.stack([p, p + 1]) for name, p in layer.named_parameters()}
    mapped = vmap(lambda own: functional_call(layer, own, (maps,)))(weights)
    expected = functional.conv2d(maps, layer.weight + 1, layer.bias + 1, padding=1)
    torch.testing.assert_close(mapped[1], expected, rtol=1e-4, atol=1e-2)


@needs_kernels
def test_a_resnet_gives_the_same_with_either(rng, monkeypatch):
    """Smooth activations, since a pixel at 0 may fall on either side of a ReLU's bend."""
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, maps: functional.softplus(maps))
    monkeypatch.setattr(functional, "relu", lambda maps, **_: functional.softplus(maps))
    network = ResNet(num_classes=3, channels=3, resolution=32, generator=rng, depth=10, width=32)
    images = torch.randn(32, 3, 32, 32, generator=rng)
    results = []
    for algorithm in ("auto", "direct"):
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.algorithm = algorithm
        logits = network(images)
        results.append([logits, *torch.autograd.grad(logits.sin().sum(), network.parameters())])
    assert not torch.equal(results[0][0], results[1][0])  # they were made in two ways
    for ours, theirs in zip(*results, strict=True):
        bound = 2e-4 * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(InputError, match="convolution must be auto or direct, got 'fast'"):
        Convolution(3, 3, 3, algorithm="fast")
