"""The convolution of images of few channels is the convolution, forward and in all derivatives."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning.networks.columns import convolve
from tests.kernels import draw, needs_kernels

pytestmark = needs_kernels
BOUND = 3e-6  # of the largest value, against float64
SHAPES = [  # n, channels in, channels out, height, width, padding
    (3, 3, 32, 8, 8, 1),
    (20, 3, 128, 9, 7, 1),  # pixels that are no whole rows of products
    (2, 1, 64, 28, 28, 3),
    (2, 4, 32, 5, 6, 0),
    (1, 2, 32, 1, 1, 1),
]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_derivatives_are_those_of_conv2d(rng, shape, has_bias):
    tensors, padding = draw(rng, shape)[: 2 + has_bias], shape[-1]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    push = torch.randn(functional.conv2d(*tensors, padding=padding).shape, generator=rng)
    results = []
    for function, leaves in ((convolve, tensors), (functional.conv2d, exact)):
        result = function(*leaves, padding=padding)
        plain = torch.autograd.grad((result * push).sum(), leaves, retain_graph=True)
        first = torch.autograd.grad(result.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([result, *plain, *first, *second])
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= BOUND * expected.abs().max()


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_wanted_gradients_are_made(rng, wanted):
    tensors = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(draw(rng, SHAPES[0]))]
    ours, theirs = (
        torch.autograd.grad(function(*tensors, padding=1).square().sum(), tensors[wanted])
        for function in (convolve, functional.conv2d)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_an_image_does_not_depend_on_the_images_beside_it(rng):
    images, weight, bias = (t.detach() for t in draw(rng, SHAPES[1]))
    alone = torch.cat([convolve(image[None], weight, bias, padding=1) for image in images])
    assert torch.equal(convolve(images, weight, bias, padding=1), alone)


def test_no_images_give_no_maps(rng):
    images, weight, bias = draw(rng, (0, 3, 32, 8, 8, 1))
    result = convolve(images, weight, bias, padding=1)
    assert result.shape == (0, 32, 8, 8)
    result.sum().backward()
    assert not weight.grad.any()
    assert images.grad.shape == images.shape
