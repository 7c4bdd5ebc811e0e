"""What Winograd's convolution and blocks in few passes save on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/convolution.py \
        --output benchmarks/results/convolution_cpu.json

Every layer of the ConvNets by PyTorch's convolution and by Winograd's, whatever the rule of
``networks/convolution.py`` would take: forward without a graph, and forward and backward by maps
and kernels; the same with few tiles, which is where the rule comes from; then whole networks, layer
after layer and as they run. Ratios are medians of turns, above 1 where ours is faster; seconds are
those of the processor where it has one thread. Errors are against float64, in shares of the
largest value.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from turns import tell

from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.winograd import convolve
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator

WIDTHS = (32, 64, 128, 256)
IMAGES = {64: 2, 32: 8, 16: 32, 8: 64}  # by pixels of a side of the maps
FEW = (1, 4, 8, 16, 32)  # images of 8 px, four tiles each
NETWORKS = {"CIFAR-10": (32, 128), "Tiny-ImageNet": (64, 32), "ImageNet-128": (128, 8)}
Convolve = Callable[..., Tensor]
WAYS: Mapping[str, Convolve] = {"direct": functional.conv2d, "winograd": convolve}


def take_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each call in every turn but the first."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = now()
            call()
            times[name].append(1e3 * (now() - started))
    return {name: values[1:] for name, values in times.items()}


def compared(slow: Callable[[], Any], fast: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of two calls and their ratio."""
    times = take_turns({"direct": slow, "ours": fast}, repeats)
    pairs = zip(times["direct"], times["ours"], strict=True)
    return {
        "direct, ms": statistics.median(times["direct"]),
        "ours, ms": statistics.median(times["ours"]),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratio of the fastest": min(times["direct"]) / min(times["ours"]),
    }


def layer(width: int, side: int, num_images: int, repeats: int) -> dict[str, Any]:
    """Compare the two convolutions of one shape."""
    generator = keyed_generator(0, "layer", width, side)
    maps, push = (torch.randn(num_images, width, side, side, generator=generator) for _ in "xy")
    bound = (9 * width) ** -0.5
    weight = torch.empty(width, width, 3, 3).uniform_(-bound, bound, generator=generator)
    leaves = (maps.requires_grad_(), weight.requires_grad_())

    @torch.no_grad()
    def forward(way: Convolve) -> Tensor:
        return way(*leaves, padding=1)

    def both(way: Convolve) -> tuple[Tensor, ...]:
        return torch.autograd.grad(way(*leaves, padding=1), leaves, push)

    exact = functional.conv2d(*(leaf.detach().double() for leaf in leaves), padding=1)
    errors = {
        f"error, {name}": float((forward(way) - exact).abs().max() / exact.abs().max())
        for name, way in WAYS.items()
    }
    return {
        "width": width,
        "side, px": side,
        "images": num_images,
        "tiles": num_images * (side // 4) ** 2,
        "forward": compared(*(partial(forward, way) for way in WAYS.values()), repeats),
        "forward and backward": compared(*(partial(both, way) for way in WAYS.values()), repeats),
        **errors,
    }


def network(resolution: int, num_images: int, repeats: int) -> dict[str, Any]:
    """Compare a ConvNet layer after layer to itself as it runs."""
    shape = {"num_classes": 10, "channels": 3, "resolution": resolution}
    build = partial(build_network, "convnet", **shape)
    networks = [
        build(generator=keyed_generator(0, "network"), convolution=algorithm)
        for algorithm in ("direct", "auto")
    ]
    size = (num_images, 3, resolution, resolution)
    images = torch.randn(size, generator=keyed_generator(0, "images"))
    labels = torch.arange(num_images) % 10

    def embed(own: Any) -> Tensor:
        with torch.no_grad():
            return own.embed(images)

    def push_images(own: Any) -> None:
        own.requires_grad_(False)
        seen = images.clone().requires_grad_()
        own.embed(seen).square().sum().backward()

    def train(own: Any) -> None:
        own.requires_grad_(True).zero_grad()
        functional.cross_entropy(own(images), labels).backward()

    features, expected = embed(networks[1]), networks[0].double().embed(images.double()).detach()
    networks[0].float()
    return {
        "resolution": resolution,
        "images": num_images,
        "error of features": float((features - expected).abs().max() / expected.abs().max()),
        **{
            name: compared(*(partial(call, own) for own in networks), repeats)
            for name, call in (
                ("embed without a graph", embed),
                ("embed, and backward to the images", push_images),
                ("train", train),
            )
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # programs that were running beside this one
    keep_freed_memory()
    repeats = arguments.repeats
    result = {
        "repeats": repeats,
        "load before": load,
        "threads": torch.get_num_threads(),
        "layers": [layer(w, s, n, repeats) for w in WIDTHS for s, n in IMAGES.items()],
        "few tiles": [layer(128, 8, num_images, repeats) for num_images in FEW],
        "networks": {name: network(*shape, repeats) for name, shape in NETWORKS.items()},
        "provenance": provenance(torch.device("cpu")),
    }
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
