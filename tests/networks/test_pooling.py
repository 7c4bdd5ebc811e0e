"""The fast average pool is the average pool."""

import pytest
import torch
from torch.nn import functional

from geodm_lightning.networks.pooling import average_pool_2x2


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 2), (2, 4, 3, 5), (3, 2, 7, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_torch(device, rng, shape, dtype):
    images = torch.randn(shape, generator=rng, device=device, dtype=torch.float32).to(dtype)
    results = []
    for pool in (average_pool_2x2, lambda x: functional.avg_pool2d(x, 2)):
        leaf = images.clone().requires_grad_()
        pooled = pool(leaf)
        (pooled.float() ** 2).sum().backward()
        results.append((pooled, leaf.grad))
    bound = 2e-2 if dtype is torch.bfloat16 else 1e-6
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


def test_first_and_second_derivatives(device, rng):
    images = torch.randn(
        1, 2, 4, 5, generator=rng, device=device, dtype=torch.float64, requires_grad=True
    )
    square = lambda x: average_pool_2x2(x).square()  # noqa: E731
    assert torch.autograd.gradcheck(square, (images,))
    assert torch.autograd.gradgradcheck(square, (images,))


def test_channels_last_maps_are_pooled_alike(rng, device):
    images = torch.randn(2, 8, 6, 6, generator=rng, device=device)
    last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(average_pool_2x2(last), average_pool_2x2(images))
