"""What this machine can do: products and copies per second."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from turns import take_turns
from work import Work

REPEATS = 7  # the best of them counts
CPU_PRODUCTS = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (8192, 1152, 128))
CUDA_PRODUCTS = ((4096, 4096, 4096), (16384, 8192, 8192), (262144, 1152, 128))
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE = 32 * 2**20  # bytes taken for the last cache where the system does not tell
CACHE_COPIES = 20  # in a row, so that their start does not count


class Machine(NamedTuple):
    """Rates of one device with all threads of this process.

    Attributes:
        products: FLOP per second by precision, of the fastest shape of product.
        memory: Bytes read and written per second by copies beyond the last cache.
        cache: Bytes read and written per second by copies within it.
        cache_bytes: Size of the last cache.
    """

    products: dict[str, float]
    memory: float
    cache: float
    cache_bytes: int

    @property
    def no_bf16(self) -> str | None:
        """Why bf16 is not worth measuring; None where it is."""
        ratio = self.products["bf16"] / self.products["float32"]
        return None if ratio > 1 else f"products in bf16 run at {ratio:.2f} of the rate of float32"

    def bounds(self, work: Work, precision: str) -> tuple[float, float]:
        """Return the seconds that computing and moving take at least; the longer is the floor.

        Numbers of bf16 may as well be multiplied as float32, where that is faster.

        Args:
            work: Bytes beyond the last cache are moved at the rate of memory, others at its own.
            precision: "float32" or "bf16".
        """
        rate = self.memory if work.bytes > self.cache_bytes else self.cache
        products = max(self.products[precision], self.products["float32"])
        return work.flops / products, work.bytes / rate

    def best(self, other: Machine) -> Machine:
        """Return the better rates of two measurements."""
        products = {key: max(rate, other.products[key]) for key, rate in self.products.items()}
        memory, cache = max(self.memory, other.memory), max(self.cache, other.cache)
        return Machine(products, memory, cache, self.cache_bytes)


def measure_machine(device: torch.device) -> Machine:
    """Measure a device with the threads this process has."""
    cache = last_cache(device)
    return Machine(
        {"float32": product_rate(device), "bf16": bf16_rate(device)},
        memory=copy_rate(8 * cache, device),
        cache=copy_rate(cache // 8, device, copies=CACHE_COPIES),
        cache_bytes=cache,
    )


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the best rate of products seen here, in FLOP per second.

    On a GPU they are also made as convolutions of single pixels, since those may round float32
    to TF32 where products do not.
    """
    shapes = CPU_PRODUCTS if device.type == "cpu" else CUDA_PRODUCTS
    return max(_product_rate(*shape, device, dtype) for shape in shapes)


def bf16_rate(device: torch.device) -> float:
    """Return the best rate of products in bf16, of the smallest alone where it is a slow one."""
    shape = (CPU_PRODUCTS if device.type == "cpu" else CUDA_PRODUCTS)[0]
    small = _product_rate(*shape, device, torch.bfloat16)
    if small < _product_rate(*shape, device, torch.float32):
        return small
    return product_rate(device, torch.bfloat16)


def copy_rate(size: int, device: torch.device, *, copies: int = 1) -> float:
    """Return the best rate of copying an array of ``size`` bytes, bytes read plus written."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)

    def copy(_: int) -> None:
        for _ in range(copies):
            target.copy_(source)

    return 2 * source.nbytes * copies / _best_seconds(copy, device)


def last_cache(device: torch.device) -> int:
    """Return the bytes of the last cache before memory."""
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return properties.L2_cache_size
    sizes = [file.read_text().strip() for file in CACHES.glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=UNKNOWN_CACHE)


def _product_rate(m: int, k: int, n: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(*shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
    seconds = _best_seconds(lambda _: a @ b, device)
    if device.type == "cuda":
        pixels = a.reshape(1, math.isqrt(m), -1, k).permute(0, 3, 1, 2)  # channels last
        kernels = b.T.contiguous()[..., None, None]
        convolved = _best_seconds(lambda _: torch.conv2d(pixels, kernels), device)
        seconds = min(seconds, convolved)
    return 2 * m * k * n / seconds


def _best_seconds(call: Callable[[int], Any], device: torch.device) -> float:
    return min(take_turns({"": call}, device, REPEATS)[""])
