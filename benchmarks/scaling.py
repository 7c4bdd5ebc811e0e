"""How the cost of a matching iteration grows with classes, images per class and processes.

    python benchmarks/scaling.py --output benchmarks/results/scaling_cpu.json

Random pixels of 3×32×32, ConvNet-3 of width 32, 8 real images of a class, 10 classes at once,
three spaces with transport; every case is a start of its own, with one thread per process, so its
processor seconds are hardly changed by other programs. What is beyond, a line through the points
and plain arithmetic, is ``extrapolated``; ``benchmarks/scaling_figure.py`` draws the file and fills
the tables of ``docs/scaling.md``.
"""

from __future__ import annotations

import os

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

CLASSES = (10, 20, 50, 100, 200, 500, 1000)
IMAGES_PER_CLASS = (1, 10, 50)
PROCESSES = (1, 2, 4)
SHARED_CLASSES = 100  # of the cases with several processes
REAL_PER_CLASS = 16  # random images there are of a class
WARM_UP = 2  # iterations not timed; the second is traced

# ImageNet-21K has 21,841 classes; its cleaned winter release of 2021 ("-P") has 10,450.
LARGE = {"ImageNet-1K": 1000, "ImageNet-21K-P": 10_450, "ImageNet-21K": 21_841}
PIXELS = 3 * 224 * 224
EPOCHS, STUDENT_BATCH = 300, 64  # of soft-label protocols at this size
TOP_K = 10


class Case(NamedTuple):
    """What is measured in one start.

    Attributes:
        classes: Classes over all processes.
        ipc: Synthetic images of a class.
        processes: Processes that share the classes.
        repeats: Iterations timed.
    """

    classes: int
    ipc: int = 1
    processes: int = 1
    repeats: int = 3


def measure(case: Case) -> dict[str, Any]:
    """Time iterations of this process, with all others of the case."""
    import torch

    from geodm_lightning.heap import keep_freed_memory
    from geodm_lightning.memory import traced
    from geodm_lightning.processes import Processes, join_processes, leave_processes
    from geodm_lightning.provenance import peak_memory

    class Counting(Processes):
        """Adds up the bytes that are summed over the processes."""

        sent = 0

        def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
            Counting.sent += tensor.numel() * tensor.element_size()
            return super().sum_(tensor)

    keep_freed_memory()
    torch.set_num_threads(1)
    processes = Counting(*join_processes("cpu"))
    build(Case(case.processes), processes)  # one class each: loads the libraries
    resident = peak_memory(torch.device("cpu"))
    distiller = build(case, processes)
    times, spent, sent = [], [], []
    for iteration in range(WARM_UP + case.repeats):
        Counting.sent = 0
        processes.barrier()
        barrier, began, worked = Counting.sent, time.perf_counter(), time.process_time()
        if iteration == 1:
            with traced(torch.device("cpu")) as peak:
                distiller.training_step(iteration)
        else:
            distiller.training_step(iteration)
        if iteration >= WARM_UP:
            times.append(time.perf_counter() - began)
            spent.append(time.process_time() - worked)
            sent.append(Counting.sent - barrier)
    pixels = distiller.synthetic.pixels
    held = [pixels, pixels.grad, *distiller.image_optimizer.state[pixels].values()]
    leave_processes()
    return {
        "seconds": statistics.median(times),
        "processor seconds": statistics.median(spent),
        "bytes summed over processes": statistics.median(sent),
        "bytes of owned images, gradients and moments": sum(
            t.numel() * t.element_size() for t in held if t is not None
        ),
        "most bytes of tensors made in an iteration": peak(),
        "resident bytes added": peak_memory(torch.device("cpu")) - resident,
    }


def build(case: Case, processes: Any) -> Any:
    """Build the distillation of the classes this process owns."""
    import torch

    from geodm_lightning.data.augment import Augmentation
    from geodm_lightning.data.catalog import dataset_spec
    from geodm_lightning.data.table import TensorTable
    from geodm_lightning.distillers.matching import MatchingDistiller
    from geodm_lightning.distillers.real_features import RealFeatures
    from geodm_lightning.distillers.recipe import Optimizers, StepSizes
    from geodm_lightning.distillers.synthetic import SyntheticImages
    from geodm_lightning.geometry.product import build_product
    from geodm_lightning.matching.geodm import GeometricMatching
    from geodm_lightning.matching.moments import MeanMatching
    from geodm_lightning.matching.transport import TransportMatching
    from geodm_lightning.networks.backbones import build_network
    from geodm_lightning.networks.pool import RandomPool
    from geodm_lightning.randomness import keyed_generator
    from geodm_lightning.types import LabelledImages

    spec = dataset_spec("cifar10")._replace(num_classes=case.classes)
    generator = keyed_generator(0, "scaling")
    shape = (case.classes * REAL_PER_CLASS, 3, 32, 32)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(case.classes).repeat_interleave(REAL_PER_CLASS)
    owned = processes.shard(case.classes)
    initial = torch.rand(owned.stop - owned.start, case.ipc, 3, 32, 32, generator=generator)
    network = {"num_classes": case.classes, "channels": 3, "resolution": 32, "width": 32}
    factors = ["euclidean", "hyperbolic", "spherical"]
    distiller = MatchingDistiller(
        SyntheticImages(initial, spec=spec, space="normalised", factor=1),
        GeometricMatching(
            MeanMatching(),
            build_product(factors, curvature=1.0, learn_curvature=True, learn_weights=True),
            TransportMatching(),
        ),
        real=RealFeatures(
            TensorTable(LabelledImages(pixels, labels), spec),
            RandomPool(lambda g: build_network("convnet_d3", generator=g, **network), 0),
            Augmentation(),
            real_batch=8,
            seed=0,
        ),
        optimizers=Optimizers(
            images=partial(torch.optim.SGD, lr=1.0, momentum=0.5),
            geometry=partial(torch.optim.Adam, lr=1e-3),
        ),
        sizes=StepSizes(num_iterations=10**9, classes_per_step=10, log_every=10**9),
        processes=processes,
    )
    distiller.manual_backward = torch.Tensor.backward
    return distiller


def start(case: Case) -> dict[str, Any]:
    """Run a case in processes of its own; return what the slowest and largest of them found."""
    with socket.socket() as door:
        door.bind(("localhost", 0))
        port = door.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost"}
    environment |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(case.processes)}
    command = [sys.executable, __file__, "--case", json.dumps(case._asdict())]
    started = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(case.processes)
    ]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    whole = {**case._asdict(), **{key: max(each[key] for each in found) for key in found[0]}}
    print(json.dumps(whole), flush=True)
    return whole


def extrapolated(by_classes: list[dict[str, Any]]) -> dict[str, Any]:
    """Extend the line of seconds over classes, and do the arithmetic of images and labels."""
    from geodm_lightning.labels.encodings import bytes_estimate

    seconds = [case["processor seconds"] for case in by_classes]
    each, fixed = statistics.linear_regression([case["classes"] for case in by_classes], seconds)
    rows = {}
    for name, classes in LARGE.items():
        for ipc in (1, 10, 50):
            images = classes * ipc
            store = {"num_views": images, "num_classes": classes, "num_epochs": EPOCHS}
            rows[f"{name}, IPC {ipc}"] = {
                "classes": classes,
                "processor seconds of an iteration, IPC 1, shapes measured": fixed + each * classes,
                "bytes of learned images, gradients and moments at 224 px": 12 * PIXELS * images,
                "bytes of pictures at 224 px": PIXELS * images,
                "bytes of labels, fp16": bytes_estimate("fp16", **store),
                "bytes of labels, int8": bytes_estimate("int8", **store),
                f"bytes of labels, top {TOP_K}": bytes_estimate("topk", top_k=TOP_K, **store),
                "steps of a student": EPOCHS * -(-images // STUDENT_BATCH),
            }
    return {
        "processor seconds per class": each,
        "processor seconds at no class": fixed,
        "epochs": EPOCHS,
        "student batch": STUDENT_BATCH,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--note", default="", help="kept in the file, such as 'busy machine'")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(Case(**arguments.case))))
        return
    import torch

    from geodm_lightning.files import write_json
    from geodm_lightning.provenance import provenance

    repeats, load = arguments.repeats, os.getloadavg()[0]
    by_classes = [start(Case(classes, repeats=repeats)) for classes in CLASSES]
    by_ipc = [start(Case(10, ipc, repeats=repeats)) for ipc in IMAGES_PER_CLASS]
    shared = [start(Case(SHARED_CLASSES, 10, p, repeats)) for p in PROCESSES]
    result = {
        "note": arguments.note,
        "load before": load,
        "by classes": by_classes,
        "by images per class": by_ipc,
        "by processes": shared,
        "extrapolated": extrapolated(by_classes),
        "provenance": provenance(torch.device("cpu")),
    }
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
