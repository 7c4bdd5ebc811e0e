"""How long one matching step takes, next to the published per-class loop and the machine's floor.

    python benchmarks/matching_step.py --output benchmarks/results/matching_step_cpu.json

CIFAR-10 shapes on random pixels: 10 classes, IPC 10, real batch 256, ConvNet-3 of width 128, a
fresh network every step. All variants take turns in one process; a ratio is the median of the
ratios of the turns. The floor is the arithmetic of the step over the product rate of this machine.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from turns import medians, product_rate, ratio, seconds_of, take_turns, tell

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import TensorTable
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.recipe import Optimizers, StepSizes
from geodm_lightning.distillers.synthetic import SyntheticImages
from geodm_lightning.geometry.product import build_product
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.ledger import Ledger
from geodm_lightning.matching.centroid import CentroidMatching
from geodm_lightning.matching.characteristic import CharacteristicMatching
from geodm_lightning.matching.geodm import GeometricMatching, Strategy
from geodm_lightning.matching.kernels import KernelMatching
from geodm_lightning.matching.moments import CovarianceMatching, MeanMatching
from geodm_lightning.matching.transport import TransportMatching
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.networks.pooling import AveragePool
from geodm_lightning.processes import Processes
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import LabelledImages

SPEC = dataset_spec("cifar10")
PER_CLASS = 512  # random images per class; only their number matters
build = partial(
    build_network, "convnet_d3", num_classes=10, channels=3, resolution=32
)  # call with generator=


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "DM": MeanMatching,
    "HDD": CentroidMatching,
    "M3D": KernelMatching,
    "DSDM": CovarianceMatching,
    "NCFM": CharacteristicMatching,
}


class Steps:
    """The variants of one step, all starting from the same images."""

    def __init__(self, device: torch.device, *, real_batch: int, ipc: int) -> None:
        generator = keyed_generator(0, "benchmark")
        shape = (10 * PER_CLASS, 3, 32, 32)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.arange(10).repeat_interleave(PER_CLASS)
        self.table = TensorTable(LabelledImages(pixels, labels), SPEC).to(device)
        self.initial = self.table.gather(self.table.draw(ipc, generator=generator))
        self.augmentation = Augmentation()
        self.real_batch = real_batch
        self.device = device

    def ours(self, base: Strategy | None = None, *, geometric: bool) -> MatchingDistiller:
        """Our step: a strategy in three factors with transport, or its Euclidean original."""
        factors = ["euclidean", "hyperbolic", "spherical"] if geometric else ["euclidean"]
        matching = GeometricMatching(
            base or MeanMatching(),
            build_product(
                factors, curvature=1.0, learn_curvature=geometric, learn_weights=geometric
            ),
            TransportMatching() if geometric else None,
        ).to(self.device)
        pool = RandomPool(lambda g: build(generator=g), 0).to(self.device)
        distiller = MatchingDistiller(
            SyntheticImages(self.initial, spec=SPEC, space="normalised", factor=1),
            matching,
            real=RealFeatures(
                self.table, pool, self.augmentation, real_batch=self.real_batch, seed=0
            ),
            optimizers=Optimizers(
                images=partial(torch.optim.SGD, lr=1.0, momentum=0.5),
                geometry=partial(torch.optim.Adam, lr=1e-3),
            ),
            sizes=StepSizes(num_iterations=10**9, classes_per_step=10, log_every=10**9),
            processes=Processes(),
        )
        distiller.manual_backward = torch.Tensor.backward  # type: ignore[method-assign,assignment]
        return distiller

    def per_class_loop(self) -> Callable[[int], None]:
        """The published DM step: a new network with PyTorch's pooling, class after class."""
        images = normalise(self.table.gather(torch.arange(len(self.table))), SPEC)
        pixels = normalise(self.initial, SPEC).clone().requires_grad_()
        optimizer = torch.optim.SGD([pixels], lr=1.0, momentum=0.5)

        def step(iteration: int) -> None:
            network = build(generator=keyed_generator(0, "network", iteration)).to(self.device)
            network.requires_grad_(False).train()
            use_torch_pooling(network)
            loss = torch.zeros((), device=self.device)
            for label in range(10):
                order = torch.randperm(PER_CLASS)[: self.real_batch] + label * PER_CLASS
                generator = keyed_generator(0, "augment", iteration, label)
                draw = self.augmentation.draw(1, generator=generator)
                real = self.augmentation(images[order.to(self.device)][None], draw)[0]
                synthetic = self.augmentation(pixels[label : label + 1], draw)[0]
                target = network.embed(real).detach().mean(0)
                loss = loss + (target - network.embed(synthetic).mean(0)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


def use_torch_pooling(network: nn.Module) -> None:
    """Put PyTorch's average pooling where the network has ours."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, AveragePool):
                setattr(module, name, nn.AvgPool2d(2))


def components(
    distiller: MatchingDistiller, device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the seconds per step of each component, forward and backward."""
    distiller.ledger = Ledger(device)
    for iteration in range(repeats):
        distiller.training_step(1000 + iteration)
    return distiller.ledger.per_iteration()


def count_flops(distiller: MatchingDistiller) -> int:
    """Return the floating-point operations of products and convolutions in one step."""
    with FlopCounterMode(display=False) as counter:
        distiller.training_step(0)
    return counter.get_total_flops()


def overheads(steps: Steps, repeats: int) -> dict[str, dict[str, float]]:
    """Compare every strategy in the product with transport to its Euclidean original.

    The two take turns; the ratio is the median of those of the turns. Operations, counted in
    the turn that warms up, know no noise.
    """
    found = {}
    for name, base in STRATEGIES.items():
        flat, curved = steps.ours(base(), geometric=False), steps.ours(base(), geometric=True)
        flops, flops_curved = count_flops(flat), count_flops(curved)
        turns = [
            [seconds_of(d.training_step, turn, steps.device) for d in (flat, curved)]
            for turn in range(1, repeats + 1)
        ]
        found[name] = {
            "seconds flat": statistics.median(flat for flat, _ in turns),
            "seconds in the product": statistics.median(curved for _, curved in turns),
            "ratio": statistics.median(curved / flat for flat, curved in turns),
            "ratio of operations": flops_curved / flops,
        }
    return found


def bf16_seconds(distiller: MatchingDistiller, device: torch.device, repeats: int) -> float:
    """Return the median seconds of a step whose network runs in bf16."""

    def step(iteration: int) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            distiller.training_step(iteration)

    times = [seconds_of(step, 2000 + i, device) for i in range(repeats + 1)]
    return statistics.median(times[1:])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time all variants in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load = os.getloadavg()[0]  # programs that were running beside this one
    keep_freed_memory()
    steps = Steps(device, real_batch=arguments.real_batch, ipc=arguments.ipc)
    geodm, flat = steps.ours(geometric=True), steps.ours(geometric=False)
    variants = {
        "per-class loop (DM)": steps.per_class_loop(),
        "ours (DM)": flat.training_step,
        "ours (GeoDM)": geodm.training_step,
    }
    turns = take_turns(variants, device, arguments.repeats)
    rates = {
        str(dtype).removeprefix("torch."): product_rate(device, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    flops = count_flops(geodm)
    seconds = medians(turns)
    floor = flops / rates["float32"]
    result = {
        "shapes": {"classes": 10, "real_batch": arguments.real_batch, "ipc": arguments.ipc},
        "repeats": arguments.repeats,
        "load before": load,
        "seconds": seconds,
        "ratio per-class loop / ours (DM)": ratio(turns, "per-class loop (DM)", "ours (DM)"),
        "ratio ours GeoDM / DM": ratio(turns, "ours (GeoDM)", "ours (DM)"),
        "with geometry and transport / the same strategy flat": overheads(steps, arguments.repeats),
        "components of ours (GeoDM), seconds": components(geodm, device, arguments.repeats),
        "product_rate_flops": rates,
        "flops": flops,
        "floor_seconds_float32": floor,
        "ours (GeoDM) / floor, float32": seconds["ours (GeoDM)"] / floor,
    }
    if rates["bfloat16"] > rates["float32"]:
        bf16 = bf16_seconds(geodm, device, arguments.repeats)
        result["seconds"]["ours (GeoDM, bf16)"] = bf16
        result["ours (GeoDM, bf16) / floor"] = bf16 * rates["bfloat16"] / flops
    else:
        small = Steps(device, real_batch=arguments.small_batch, ipc=1).ours(geometric=True)
        exact = statistics.median(
            [seconds_of(small.training_step, i, device) for i in range(4)][1:]
        )
        result["bf16"] = {
            "why": "this processor multiplies bf16 more slowly than float32; measured small",
            "real_batch": arguments.small_batch,
            "ipc": 1,
            "seconds float32": exact,
            "seconds bf16": bf16_seconds(small, device, 2),
        }
    result["provenance"] = provenance(device)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real-batch", type=int, default=256)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small-batch", type=int, default=8, help="for bf16 where it is slow")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    tell(result, arguments.output)


if __name__ == "__main__":
    main()
