"""Norm, ReLU and pooling of a block on a GPU: one kernel beside PyTorch's operations.

    python benchmarks/norm_relu_pool.py --output benchmarks/results/norm_relu_pool_gpu.json

Shapes are those of the blocks of a ConvNet at CIFAR-10's size, an odd one and a large one. Ratios
are medians of turns, above 1 where the kernel is faster; ``floor`` is the time of the kernel over
that of copying the bytes it must move at least: backward, maps and gradients of pooled maps in,
gradients of maps out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import medians, ratio, take_turns, tell

from geodm_lightning.networks.gpu import Compute, obstacle, one_by_one, one_kernel
from geodm_lightning.provenance import provenance

SHAPES = ((2560, 128, 32, 32), (2560, 128, 16, 16), (2560, 128, 8, 8), (512, 128, 31, 31))
LARGE = (64, 128, 224, 224)
DTYPES = (torch.float32, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)
EPS = 1e-5
Call = Callable[[int], None]


def measure(maps: Tensor, repeats: int) -> dict[str, Any]:
    """Return milliseconds forward and backward of both ways, ratios and multiples of the floor."""
    weight, bias = torch.stack([torch.ones(maps.shape[1]), torch.zeros(maps.shape[1])]).to(
        maps.device
    )
    leaf = maps.detach().requires_grad_()
    ways = {"operations": one_by_one, "kernel": one_kernel}
    pooled = {name: compute(leaf, weight, bias, EPS) for name, compute in ways.items()}
    pushes = torch.randn_like(pooled["kernel"])
    calls: dict[str, dict[str, Call]] = {
        "forward": {
            name: partial(apply, compute, maps, weight, bias) for name, compute in ways.items()
        },
        "backward": {name: partial(differentiate, y, leaf, pushes) for name, y in pooled.items()},
    }
    moved = {"forward": maps.nbytes + pushes.nbytes, "backward": 2 * maps.nbytes + pushes.nbytes}
    found: dict[str, Any] = {}
    for part, ours in calls.items():
        copy = partial(refill, torch.empty(2, moved[part] // 2, dtype=torch.uint8).to(maps.device))
        times = take_turns({**ours, "copy": copy}, maps.device, repeats)
        found[part] = {f"{name}_ms": 1e3 * seconds for name, seconds in medians(times).items()}
        found[part]["ratio"] = ratio(times, "operations", "kernel")
        found[part]["floor"] = ratio(times, "kernel", "copy")
    return found


def apply(compute: Compute, maps: Tensor, weight: Tensor, bias: Tensor, turn: int) -> None:
    """Pool maps without a graph."""
    compute(maps, weight, bias, EPS)


def differentiate(pooled: Tensor, leaf: Tensor, pushes: Tensor, turn: int) -> None:
    """Run the way back, which is kept for the next turn."""
    torch.autograd.grad(pooled, leaf, pushes.to(pooled.dtype), retain_graph=True)


def refill(halves: Tensor, turn: int) -> None:
    """Copy one half over the other: as many bytes read and written as both have."""
    halves[1].copy_(halves[0])


def main() -> None:
    """Measure every shape, type and memory format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    device = torch.device("cuda")
    reason = obstacle(device)
    if reason is not None:
        print(f"error: no kernel to measure here: {reason}", file=sys.stderr)
        sys.exit(2)
    rows = []
    for shape in (*SHAPES, LARGE):
        for dtype in DTYPES:
            for layout in FORMATS:
                maps = torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout)
                found = measure(maps, arguments.repeats)
                rows.append({"shape": shape, "dtype": str(dtype), "format": str(layout), **found})
                print(shape, dtype, layout, found, flush=True)
    tell({"rows": rows, "provenance": provenance(device)}, arguments.output)


if __name__ == "__main__":
    main()
