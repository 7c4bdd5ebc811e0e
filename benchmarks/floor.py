"""What a machine needs at least for the work of this project, and what it takes.

    python benchmarks/floor.py --output benchmarks/results/floor_cpu.json
    python benchmarks/floor.py --precisions bf16 --output benchmarks/results/floor_bf16_cpu.json
    python benchmarks/floor.py --device cuda --output benchmarks/results/floor_gpu.json
    python benchmarks/floor_figure.py benchmarks/results/floor_cpu.json

The matching step, the OT loss, a guided sampler step and a student's step, on random pixels of
three data sets, with 1, 10 and 50 images per class, in float32 and, where the machine multiplies
it faster or it is asked for, in bf16. The floor is the longer of two times: operations, as many as
the direct form of convolutions and products has, over the measured rate of products; and the bytes
that cannot but be moved over the measured rate of copies. On a CPU the larger images are fewer, see
``sizes``; what is told of them is the ratio to the floor, and nothing is extrapolated.
"""

from __future__ import annotations

import os

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kernels import matching, sampling, student, transport
from machine import Machine, measure_machine
from steps import Sizes
from turns import NO_CUDA, positive
from work import Measured, Work, total

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.files import write_json
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance

KERNELS: dict[str, Any] = {each.NAME: each for each in (matching, transport, sampling, student)}
IPCS = (1, 10, 50)
PRECISIONS = ["float32", "bf16"]
REAL_BATCH = 256  # of the OT loss, on every machine
DEFINITION = (
    "max(operations / rate of products, bytes / rate of copies); operations of the direct form "
    "of convolutions and products; bytes are those each component is given and hands on, once"
)


class Shape(NamedTuple):
    """How much of a data set is measured.

    Attributes:
        dataset: Name in the catalog.
        latent: ``(ch, h, w)`` of what is sampled: pixels at 32 px, an eighth of the side above.
        classes: Classes of a matching step.
        real_batch: Real images of a class in it.
        at_once: Classes whose activations are held at once.
        student_batch: Most images of a student's step.
        samples: Samples denoised at once.
        model: Transformer that denoises.
    """

    dataset: str
    latent: tuple[int, int, int]
    classes: int
    real_batch: int
    at_once: int
    student_batch: int
    samples: int = 4
    model: str = "s"


SHAPES = {
    "cpu": {
        "CIFAR-10": Shape("cifar10", (3, 32, 32), 10, 256, 10, 256),
        "Tiny-ImageNet": Shape("tiny_imagenet", (4, 8, 8), 2, 128, 2, 128),
        "ImageNet-128": Shape("imagenette", (4, 16, 16), 1, 64, 1, 32),
    },
    "cuda": {
        "CIFAR-10": Shape("cifar10", (3, 32, 32), 10, 256, 10, 256, 16, "xl"),
        "Tiny-ImageNet": Shape("tiny_imagenet", (4, 8, 8), 200, 256, 10, 256, 16, "xl"),
        "ImageNet-128": Shape("imagenette", (4, 16, 16), 10, 256, 2, 256, 16, "xl"),
    },
}


class Case(NamedTuple):
    """Something to measure: ``sizes`` are those of the kernel's module."""

    kernel: str
    sizes: Any
    precision: str


class Found(NamedTuple):
    """What was measured of a case, by variant, and the data sets and sizes of sets it is of."""

    measured: dict[str, Measured]
    of: list[tuple[str, int]]


def cases(shape: Shape, ipc: int, precision: str) -> Iterator[Case]:
    """Yield every kernel with its sizes; the OT loss is float32 whatever the network's."""
    num_classes = dataset_spec(shape.dataset).num_classes
    images = min(num_classes * ipc, shape.student_batch)
    sizes = {
        matching.NAME: Sizes(shape.dataset, shape.classes, shape.real_batch, ipc, shape.at_once),
        transport.NAME: transport.Sizes(num_classes, REAL_BATCH, ipc),
        sampling.NAME: sampling.Sizes(shape.model, shape.latent, shape.samples, ipc),
        student.NAME: student.Sizes(shape.dataset, images),
    }
    for kernel, own in sizes.items():
        if kernel != transport.NAME or precision == "float32":
            yield Case(kernel, own, precision)


def shapes_of(arguments: argparse.Namespace) -> dict[str, Shape]:
    """Return the data sets asked for, with sizes that were given instead of those of the device."""
    given = {name: getattr(arguments, name) for name in ("classes", "real_batch", "student_batch")}
    given = {name: value for name, value in given.items() if value is not None}
    shapes = SHAPES[arguments.device]
    return {name: shapes[name]._replace(**given) for name in arguments.shapes}


def measure(
    arguments: argparse.Namespace, device: torch.device, machine: Machine
) -> dict[Case, Found]:
    """Measure all cases, each once, however many data sets and sizes of sets it is of."""
    found: dict[Case, Found] = {}
    shapes = shapes_of(arguments)
    precisions = arguments.precisions or (["float32"] if machine.no_bf16 else PRECISIONS)
    for precision, (name, shape), ipc in product(precisions, shapes.items(), arguments.ipcs):
        for case in cases(shape, ipc, precision):
            if case in found:
                found[case].of.append((name, ipc))
            elif case.kernel in arguments.kernels:
                options = {"precision": precision, "repeats": arguments.repeats}
                measured = KERNELS[case.kernel].measure(case.sizes, device, **options)
                found[case] = Found(measured, [(name, ipc)])
                for row in rows(case, found[case], machine):
                    print(line(row), flush=True)
    return found


def rows(case: Case, found: Found, machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield what was measured of a case beside what it takes at least, by variant."""
    for variant, own in found.measured.items():
        yield {
            "kernel": case.kernel,
            "variant": variant,
            "shapes": list(dict.fromkeys(shape for shape, _ in found.of)),
            "ipcs": list(dict.fromkeys(ipc for _, ipc in found.of)),
            "precision": case.precision,
            "sizes": own.sizes,
            "seconds per image": own.seconds / own.sizes["images"],
            **beside_floor(own.seconds, total(own.work), case.precision, machine),
            "parts": {
                name: beside_floor(
                    own.parts.get(name, 0.0), own.work.get(name, Work()), case.precision, machine
                )
                for name in dict.fromkeys([*own.work, *own.parts])
            },
        }


def beside_floor(seconds: float, work: Work, precision: str, machine: Machine) -> dict[str, Any]:
    """Return seconds, operations, bytes, the floor and how far above it the seconds are."""
    computing, moving = machine.bounds(work, precision)
    floor = max(computing, moving)
    return {
        "seconds": seconds,
        "flops": work.flops,
        "bytes": work.bytes,
        "floor seconds": floor,
        "bound by": "operations" if computing > moving else "bytes",
        "time / floor": seconds / floor if floor else None,
    }


def line(row: dict[str, Any]) -> str:
    """Return a row for readers."""
    name = " ".join(part for part in (row["kernel"], row["variant"]) if part)
    parts = sorted(row["parts"].items(), key=lambda item: -item[1]["seconds"])
    shares = ", ".join(f"{part} {own['seconds'] / row['seconds']:.0%}" for part, own in parts)
    return (
        f"{name}, {'/'.join(row['shapes'])}, IPC {'/'.join(map(str, row['ipcs']))}, "
        f"{row['precision']}: {1e3 * row['seconds']:.4g} ms, {row['flops'] / 1e9:.4g} GFLOP, "
        f"{row['bytes'] / 1e6:.4g} MB, floor {1e3 * row['floor seconds']:.4g} ms of "
        f"{row['bound by']}, {row['time / floor']:.2f} times it ({shares})"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(SHAPES), default="cpu")
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    shapes = list(SHAPES["cpu"])
    parser.add_argument("--shapes", nargs="+", choices=shapes, default=shapes)
    parser.add_argument("--ipcs", nargs="+", type=positive, default=list(IPCS))
    parser.add_argument("--repeats", type=positive, default=3, help="turns that count")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        help="default: float32, and bf16 where the machine multiplies it faster",
    )
    for name, what in (
        ("classes", "classes of a matching step"),
        ("real-batch", "real images of a class in it"),
        ("student-batch", "most images of a student's step"),
    ):
        parser.add_argument(f"--{name}", type=positive, help=f"{what}, for every data set")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error(NO_CUDA)
    return arguments


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    load = os.getloadavg()[0]  # programs that were running beside this one
    keep_freed_memory()
    before = measure_machine(device)
    left_out = None if arguments.precisions else before.no_bf16
    if left_out:
        print(f"bf16 is left out: {left_out}", flush=True)
    found = measure(arguments, device, before)
    after = measure_machine(device)
    machine = before.best(after)
    result = {
        "floor": DEFINITION,
        "repeats": arguments.repeats,
        "load before": load,
        "bf16 left out": left_out,
        "machine": {**machine._asdict(), "before": before._asdict(), "after": after._asdict()},
        "rows": [row for case, own in found.items() for row in rows(case, own, machine)],
        "provenance": provenance(device),
    }
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
