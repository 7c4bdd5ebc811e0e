"""Instance norm, ReLU and 2×2 average pooling as one operation."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.native.library import MULTIPLE, call, is_able, pixels_of, threads_for
from geodm_lightning.networks.convolution import is_plain
from geodm_lightning.networks.gpu import norm_relu_pool_on_gpu
from geodm_lightning.networks.pooling import average_pool_2x2

ALONE = 2**16  # numbers of maps that one core reads sooner than others wake
Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor]  # by maps, weight and bias


def norm_relu_pool(maps: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Apply instance norm with weight and bias, ReLU and 2×2 average pooling.

    Maps in float32 on a CPU whose channels lie together in memory, as Winograd's convolution
    leaves them, take one kernel, image by image; PyTorch's norm is slow on them. On a GPU too one
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
    together = maps.stride(1) == 1 and maps.shape[1] % MULTIPLE == 0
    if together and is_plain(maps, weight) and is_able():
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
        pixels = pixels_of(maps)
        n, high, wide, channels = pixels.shape
        pooled = maps.new_empty(n, high // 2, wide // 2, channels)
        means, scales = maps.new_empty(2, n, channels).unbind()
        tail = (weight, bias, eps, pooled, means, scales, threads_for(maps.numel(), alone=ALONE))
        call("norm_relu_pool", pixels, *pixels.shape, *tail)
        ctx.save_for_backward(maps, weight, bias, means, scales)
        ctx.eps = eps
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (maps, weight, bias)
            pooled = _one_by_one(maps, weight, bias, ctx.eps)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(pooled, wanted, gradients[0], create_graph=True))
            return *(next(found) if t.requires_grad else None for t in inputs), None
        pushes = pixels_of(gradients[0])
        return *_gradients(pushes, maps, weight, bias, means, scales), None


def _gradients(
    pushes: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor
) -> Gradients:
    """Return the gradients from those of the averages, ``(n, h // 2, w // 2, K)``."""
    pixels = pixels_of(maps)
    of_maps, of_weight, of_bias = (torch.empty_like(t) for t in (pixels, means, means))

    statistics, out = (weight, bias, means, scales), (of_maps, of_weight, of_bias)
    tail = (*statistics, *out, threads_for(maps.numel(), alone=ALONE))
    call("norm_relu_pool_gradients", pushes, pixels, *pixels.shape, *tail)
    return of_maps.permute(0, 3, 1, 2), of_weight.sum(0), of_bias.sum(0)
