"""Winograd's convolution is the convolution, forward and in all derivatives."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning.networks.winograd import convolve
from tests.kernels import draw, needs_kernels

pytestmark = needs_kernels
BOUND = 2e-5  # of the largest value, against float64
SHAPES = [  # n, channels in, channels out, height, width, padding
    (3, 32, 64, 8, 8, 1),
    (2, 64, 32, 7, 9, 1),
    (2, 32, 32, 5, 6, 0),
    (2, 32, 96, 6, 5, 2),
    (2, 32, 32, 3, 3, 0),
    (1, 96, 32, 1, 1, 1),
    (70, 128, 128, 8, 8, 1),  # more tiles than are worked on at once
]


def with_derivatives(function, tensors, padding, pushes):
    """Return the result, its first derivatives, and theirs, along given directions."""
    result = function(*tensors, padding=padding)
    push = pushes[0].to(result.dtype)
    first = torch.autograd.grad(result, tensors, push, create_graph=True)
    along = sum((g * p.to(g.dtype)).sum() for g, p in zip(first, pushes[1:], strict=True))
    second = torch.autograd.grad(along, tensors, materialize_grads=True)
    return [result, *first, *second]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_derivatives_are_those_of_conv2d(rng, shape, channels_last):
    tensors, padding = draw(rng, shape), shape[-1]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors[0] = tensors[0].detach().contiguous(memory_format=layout).requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    size = functional.conv2d(*tensors, padding=padding).shape
    pushes = [torch.randn(s, generator=rng) for s in (size, *(t.shape for t in tensors))]
    ours = with_derivatives(convolve, tensors, padding, pushes)
    theirs = with_derivatives(functional.conv2d, exact, padding, pushes)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= BOUND * expected.abs().max()


def test_without_constants_there_are_none(rng):
    maps, weight, _ = draw(rng, SHAPES[0])
    expected = functional.conv2d(maps.double(), weight.double(), padding=1)
    found = convolve(maps, weight, padding=1)
    assert (found - expected).abs().max() <= BOUND * expected.abs().max()


def test_an_image_does_not_depend_on_the_images_beside_it(rng):
    maps, weight, bias = (t.detach() for t in draw(rng, (40, 64, 64, 8, 8, 1)))
    together = convolve(maps, weight, bias, padding=1)
    alone = torch.cat([convolve(image[None], weight, bias, padding=1) for image in maps])
    assert torch.equal(together, alone)


def test_no_images_give_no_maps(rng):
    maps, weight, bias = draw(rng, (0, 32, 64, 8, 8, 1))
    result = convolve(maps, weight, bias, padding=1)
    assert result.shape == (0, 64, 8, 8)
    result.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_numbers_that_are_none_stay_none(rng):
    maps, weight, bias = (t.detach() for t in draw(rng, SHAPES[0]))
    maps[1, 0, 3, 3] = torch.nan
    result = convolve(maps, weight, bias, padding=1)
    assert result[1].isnan().any()
    assert not result[::2].isnan().any()
