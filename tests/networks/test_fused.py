"""Norm, ReLU and pooling at once are the three one after the other."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning.networks.fused import norm_relu_pool
from tests.kernels import needs_kernels


def one_by_one(maps, weight, bias, *, eps):
    normed = functional.group_norm(maps, maps.shape[1], weight, bias, eps)
    return functional.avg_pool2d(functional.relu(normed), 2)


def draw(rng, device, *, shape=(3, 32, 6, 6), channels_last=True, dtype=torch.float32):
    maps = torch.randn(shape, generator=rng, device=device, dtype=dtype) * 2 + 3
    layout = torch.channels_last if channels_last else torch.contiguous_format
    weight, bias = torch.randn(2, shape[1], generator=rng, device=device, dtype=dtype)
    weight[0] = 0
    leaves = [maps.contiguous(memory_format=layout), weight.clone(), bias.clone()]
    return [leaf.requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 6, 6), (2, 64, 5, 7), (1, 3, 2, 2), (2, 1, 4, 4)])
def test_values_and_derivatives_are_those_of_torch(rng, device, shape, channels_last):
    tensors = draw(rng, device, shape=shape, channels_last=channels_last)
    results = []
    for function in (norm_relu_pool, one_by_one):
        pooled = function(*tensors, eps=0.5)
        plain = torch.autograd.grad(pooled.sin().sum(), tensors, retain_graph=True)
        first = torch.autograd.grad(pooled.sin().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
        results.append([pooled, *plain, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        bound = 1e-5 * theirs.abs().max().item() + 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=bound)


@needs_kernels
def test_large_maps_keep_their_precision(rng, device):
    """Constants keep every pixel away from the ReLU's bend, where rounding decides a gradient."""
    tensors = draw(rng, device, shape=(5, 96, 32, 32))
    with torch.no_grad():
        tensors[1].clamp_(-0.5, 0.5)
        tensors[2].copy_(torch.where(tensors[2] < 0, -5.0, 5.0))
    push = torch.randn((5, 96, 16, 16), generator=rng, device=device)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    results = []
    for function, leaves in ((norm_relu_pool, tensors), (one_by_one, exact)):
        pooled = function(*leaves, eps=1e-5)
        results.append([pooled, *torch.autograd.grad(pooled, leaves, push.to(pooled.dtype))])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_wanted_gradients_are_made(rng, device, wanted):
    tensors = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(draw(rng, device))]
    leaves = [tensors[index] for index in wanted]
    for create_graph in (False, True):
        results = [
            torch.autograd.grad(
                function(*tensors, eps=1e-5).square().sum(), leaves, create_graph=create_graph
            )
            for function in (norm_relu_pool, one_by_one)
        ]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_maps_and_parameters_are_left_as_they_are(rng, device):
    tensors = draw(rng, device)
    before = [tensor.detach().clone() for tensor in tensors]
    norm_relu_pool(*tensors, eps=1e-5).sum().backward()
    assert all(torch.equal(own, other) for own, other in zip(tensors, before, strict=True))


def test_channels_stay_together_in_memory(rng, device):
    pooled = norm_relu_pool(*draw(rng, device), eps=1e-5)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
