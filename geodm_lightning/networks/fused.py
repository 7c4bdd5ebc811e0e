"""Instance norm, ReLU and 2×2 average pooling as one operation."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.networks.convolution import is_plain
from geodm_lightning.networks.gpu import norm_relu_pool_on_gpu
from geodm_lightning.networks.pooling import average_pool_2x2

Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor]  # by maps, weight and bias


def norm_relu_pool(maps: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Apply instance norm with weight and bias, ReLU and 2×2 average pooling.

    Maps in float32 on a CPU whose channels lie together in memory, as Winograd's convolution
    leaves them, take few passes of long vectors; PyTorch's norm is slow on them. On a GPU one
    kernel does it all. Others run operation by operation.

    Args:
        maps: Maps of shape ``(n, K, h, w)``.
        weight: Factors of the norm, shape ``(K,)``; any sign.
        bias: Constants of the norm, shape ``(K,)``.
        eps: Added to the variances.

    Returns:
        Maps of shape ``(n, K, h // 2, w // 2)``, differentiable any number of times; a last odd
        row or column takes part in the norm alone.
    """
    if maps.is_cuda and not torch._C._are_functorch_transforms_active():
        return norm_relu_pool_on_gpu(maps, weight, bias, eps)
    if maps.stride(1) == 1 and is_plain(maps, weight):
        pooled: Tensor = _NormReluPool.apply(maps, weight, bias, eps)
        return pooled
    return _one_by_one(maps, weight, bias, eps)


def _one_by_one(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    normed = functional.group_norm(maps, maps.shape[1], weight, bias, eps)
    return average_pool_2x2(functional.relu(normed, inplace=True))


class _NormReluPool(torch.autograd.Function):
    """The operation on maps whose channels lie together; second derivatives one by one."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        pixels = maps.permute(0, 2, 3, 1)
        means = pixels.mean((1, 2), keepdim=True)
        centred = pixels - means
        variances = centred.square().mean((1, 2), keepdim=True)
        scales = (variances + eps).rsqrt_()
        ctx.save_for_backward(maps, weight, bias, means, scales)
        ctx.eps = eps
        normed = torch.addcmul(bias, centred, weight * scales, out=centred)
        return _average(normed.relu_()).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (maps, weight, bias)
            pooled = _one_by_one(maps, weight, bias, ctx.eps)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(pooled, wanted, gradients[0], create_graph=True))
            return *(next(found) if t.requires_grad else None for t in inputs), None
        pushes = gradients[0].permute(0, 2, 3, 1)
        pixels = maps.permute(0, 2, 3, 1)
        return *_gradients(pushes, pixels, weight, bias, means, scales), None


def _gradients(
    pushes: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor
) -> Gradients:
    """Return the gradients from those of the averages, ``(n, h // 2, w // 2, K)``."""
    normed = pixels.sub(means).mul_(scales)
    wanted = _spread(pushes, torch.addcmul(bias, normed, weight))
    count = pixels.shape[1] * pixels.shape[2]
    of_bias = wanted.sum((1, 2), keepdim=True)
    of_weight = torch.mul(wanted, normed).sum((1, 2), keepdim=True)
    factor = weight * scales
    of_maps = torch.addcmul(
        of_bias * factor / -count, normed, of_weight * factor / -count, out=normed
    ).addcmul_(wanted, factor)
    return of_maps.permute(0, 3, 1, 2), of_weight.sum((0, 1, 2)), of_bias.sum((0, 1, 2))


def _average(pixels: Tensor) -> Tensor:
    """Average windows of 2×2 of pixels ``(n, h, w, K)``."""
    high, wide = (side // 2 for side in pixels.shape[1:3])
    pixels = pixels[:, : 2 * high, : 2 * wide]
    rows = pixels[:, ::2] + pixels[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]).mul_(0.25)


def _spread(pushes: Tensor, shown: Tensor) -> Tensor:
    """Give pixels shown to the ReLU a quarter of their window's gradient where they are positive.

    What was shown is overwritten.
    """
    high, wide = (2 * side for side in pushes.shape[1:3])
    shown.gt_(0)
    shown[:, high:] = 0
    shown[:, :, wide:] = 0
    windows = shown[:, :high, :wide].unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    windows *= (pushes * 0.25)[:, :, None, :, None]
    return shown
