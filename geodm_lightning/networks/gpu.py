"""Instance norm, ReLU and 2×2 average pooling as one kernel on a GPU, where Triton can build it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.processes import first_line, say_once

Compute: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AGREEMENT = 1e-4  # of float32 results with PyTorch's, in shares of the largest


def norm_relu_pool_on_gpu(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Norm every map of every image, scale and shift it, cut it at 0 and average 2×2 pixels.

    Triton's kernel does it where it can be built and agrees with PyTorch on this device; which of
    the two is taken depends on device and type alone. The kernel keeps the type of the maps, with
    statistics in float32.

    Args:
        maps: ``(n, ch, h, w)``, ``h, w`` of at least 2; a last odd row or column is normed with the
            others and left out of the pooled maps.
        weight: ``(ch,)`` factor on the normed maps.
        bias: ``(ch,)`` added to them.
        eps: Added to the variance.

    Returns:
        Maps of shape ``(n, ch, h // 2, w // 2)``, differentiable any number of times.
    """
    usual = maps.dtype in DTYPES and maps.numel() > 0 and not torch.compiler.is_compiling()
    if usual and not _refused(maps.device):
        return one_kernel(maps, weight, bias, eps)
    return one_by_one(maps, weight, bias, eps)


def one_by_one(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the same by PyTorch's operations, one after the other."""
    normed = functional.group_norm(maps, maps.shape[1], weight, bias, eps)
    return functional.avg_pool2d(normed.relu_(), 2)


def one_kernel(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the same by Triton's kernel, unconditionally."""
    pooled: Tensor = _NormReluPool.apply(maps, weight, bias, eps)[0]
    return pooled


@cache
def obstacle(device: torch.device) -> str | None:
    """Build the kernels on a device and compare them with PyTorch.

    Returns:
        Why they are not to be used there, None if they are.
    """
    try:
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            answers = [_sample(compute, device) for compute in (one_by_one, one_kernel)]
    except ImportError as error:
        return f"Triton is missing ({error})"
    except Exception as error:  # compilers and drivers fail in ways of their own
        return (
            f"Triton cannot build it ({type(error).__name__}: {first_line(str(error), most=120)})"
        )
    for plain, fused in zip(*answers, strict=True):
        if not torch.allclose(fused, plain, rtol=0, atol=AGREEMENT * float(plain.abs().max())):
            return "Triton's kernel does not agree with PyTorch"
    return None


@torch.enable_grad()
def _sample(compute: Compute, device: torch.device) -> list[Tensor]:
    """Return pooled maps of odd sides and the gradients by all that they depend on."""
    generator = torch.Generator().manual_seed(0)
    maps, pushes = (torch.randn(2, 3, s, s, generator=generator).to(device) for s in (7, 3))
    affine = [(t + torch.rand(3, generator=generator)).to(device) for t in (0.5, -0.5)]
    leaves = [tensor.requires_grad_() for tensor in (maps, *affine)]
    pooled = compute(leaves[0], leaves[1], leaves[2], 1e-5)
    return [pooled.detach(), *torch.autograd.grad(pooled, leaves, pushes)]


def _refused(device: torch.device) -> bool:
    reason = obstacle(device)
    if reason is not None:
        say_once(f"norm, ReLU and pooling run one by one on {device}: {reason}")
    return reason is not None


class _NormReluPool(torch.autograd.Function):
    """One kernel forward, one backward; derivatives of the latter are those of its formula."""

    @staticmethod
    def forward(
        maps: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        from geodm_lightning.networks.triton_kernels import pooled_maps

        return pooled_maps(maps, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the maps and their statistics, nothing between norm and pooling."""
        *tensors, ctx.eps = inputs
        _, *statistics = output
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(*tensors, *statistics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pushes, (maps, weight, bias, *statistics) = gradients[0], ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            return (*gradients_by_formula(pushes, maps, weight, bias, ctx.eps), None)
        from geodm_lightning.networks.triton_kernels import gradients_of

        return (*gradients_of(pushes, maps, weight, bias, *statistics), None)


def gradients_by_formula(
    pushes: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by maps, weight and bias in operations that can be differentiated.

    Args:
        pushes: Gradient by the pooled maps, ``(n, ch, h // 2, w // 2)``.
        maps: ``(n, ch, h, w)``.
        weight: ``(ch,)``.
        bias: ``(ch,)``.
        eps: Added to the variance.
    """
    x, plane = maps.float(), (-2, -1)
    factor, shift = (t.float()[:, None, None] for t in (weight, bias))
    variance, mean = torch.var_mean(x, plane, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    normed = (x - mean) * scale
    spread = 0.25 * pushes.float().repeat_interleave(2, -2).repeat_interleave(2, -1)
    spread = functional.pad(spread, (0, maps.shape[-1] % 2, 0, maps.shape[-2] % 2))
    push = spread * (normed * factor + shift > 0)
    along = push * normed
    inner = push - push.mean(plane, keepdim=True) - normed * along.mean(plane, keepdim=True)
    return (
        (scale * factor * inner).to(maps.dtype),
        along.sum((0, -2, -1)).to(weight.dtype),
        push.sum((0, -2, -1)).to(bias.dtype),
    )
