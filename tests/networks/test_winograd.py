"""Winograd's convolution is the convolution, forward and in all derivatives."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning.networks.winograd import convolve

SHAPES = [  # n, channels in, channels out, height, width, padding
    (3, 5, 7, 8, 8, 1),
    (2, 4, 3, 7, 9, 1),
    (2, 4, 3, 5, 6, 0),
    (2, 3, 4, 6, 5, 2),
    (2, 3, 4, 3, 3, 0),
    (1, 2, 2, 4, 4, 3),
]


def draw(rng, shape, dtype=torch.float64):
    n, inputs, outputs, height, width, _ = shape
    sizes = [(n, inputs, height, width), (outputs, inputs, 3, 3), (outputs,)]
    return [torch.randn(size, generator=rng, dtype=dtype).requires_grad_() for size in sizes]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives_are_those_of_conv2d(rng, shape):
    tensors, padding = draw(rng, shape), shape[-1]
    results = []
    for function in (convolve, functional.conv2d):
        result = function(*tensors, padding=padding)
        first = torch.autograd.grad(result.sin().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
        results.append([result, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_match_finite_differences(rng):
    tensors = draw(rng, (1, 2, 2, 3, 4, 1))
    function = lambda *tensors: convolve(*tensors, padding=1)  # noqa: E731
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_error_in_float32_is_at_most_2e_5_of_the_largest_value(rng, channels_last):
    maps, weight, bias = draw(rng, (6, 128, 128, 16, 16, 1), torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    leaves = [maps.detach().contiguous(memory_format=layout).requires_grad_(), weight, bias]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    push = torch.randn(6, 128, 16, 16, generator=rng)
    ours, theirs = convolve(*leaves, padding=1), functional.conv2d(*exact, padding=1)
    pairs = zip(
        [ours, *torch.autograd.grad((ours * push).sum(), leaves)],
        [theirs, *torch.autograd.grad((theirs * push).sum(), exact)],
        strict=True,
    )
    for found, expected in pairs:
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_an_image_does_not_depend_on_the_images_beside_it(rng):
    maps, weight, bias = (t.detach() for t in draw(rng, (40, 64, 64, 8, 8, 1), torch.float32))
    together = convolve(maps, weight, bias, padding=1)
    alone = torch.cat([convolve(image[None], weight, bias, padding=1) for image in maps])
    # Products of other sizes may add up in another order on another processor.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))


def test_no_images_give_no_maps(rng):
    maps, weight, bias = draw(rng, (0, 4, 3, 8, 8, 1))
    result = convolve(maps, weight, bias, padding=1)
    assert result.shape == (0, 3, 8, 8)
    result.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
