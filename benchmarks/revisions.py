"""Whether anything is slower than it was in another revision of this repository.

    python benchmarks/revisions.py --before REVISION --output benchmarks/results/revisions_cpu.json

Short runs of every strategy, network, student and the generative line, on random pixels, by the
program of the revision and by that of the working tree in turns, in processes of their own with
the same settings. What a stage takes is read from the lines the program prints when one is done.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from turns import positive

from geodm_lightning.files import write_json
from geodm_lightning.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
DONE = re.compile(r"^(?P<stage>.+): done in (?P<seconds>[\d.]+) s", re.MULTILINE)
CLASSES, TRAIN, TEST, SIDE = 10, 128, 16, 32

PIXELS = ("data.name=image_folder", f"data.resolution={SIDE}", "baselines=[]", "ipc=10")
SHORT = (
    "distiller.num_iterations=24",
    "distiller.real_batch=64",
    "distiller.checkpoint_every=1000",
)
FEW = ("schedule.max_students=1", "schedule.max_student_epochs=60")
WIDE = ("network=convnet", "network.depth=3", "network.width=128")
NARROW = ("network=convnet_small", "network.depth=3", "network.width=32")
TIMM = ("strategy=dm", "network=timm", "network.name=resnet10t")
FEW_NETWORKS = ("pool.count=2", "schedule.max_pretrain_steps=20")


def student(name: str) -> tuple[str, ...]:
    """Overrides for a student that is not a ConvNet."""
    return ("stages=[distill,evaluate]", *FEW, f"evaluation.student={{name: {name}}}")


CASES = {
    "DM, width 128": ("strategy=dm", *WIDE, *SHORT, "stages=[distill]"),
    "DM, width 32": ("strategy=dm", *NARROW, *SHORT, "stages=[distill]"),
    "HDD, width 128": ("strategy=hdd", *WIDE, *SHORT, "stages=[distill]"),
    "DSDM, width 128": ("strategy=dsdm", *FEW_NETWORKS, *WIDE, *SHORT, "stages=[distill]"),
    "M3D, width 128": ("strategy=m3d", *WIDE, *SHORT, "stages=[distill]"),
    "NCFM, width 128": ("strategy=ncfm", *FEW_NETWORKS, *WIDE, *SHORT, "stages=[distill]"),
    "DM, resnet18": ("strategy=dm", "network=resnet18", *SHORT, "stages=[distill]"),
    "DM, timm": (*TIMM, *SHORT, "stages=[distill]"),
    "students, width 128": ("strategy=dm", *WIDE, *SHORT, "stages=[distill,evaluate]", *FEW),
    "students, width 32": ("strategy=dm", *NARROW, *SHORT, "stages=[distill,evaluate]", *FEW),
    "students, resnet18": ("strategy=dm", *NARROW, *SHORT, *student("resnet18")),
    "students, vit": ("strategy=dm", *NARROW, *SHORT, *student("vit")),
}
DIGITS = {
    "quick start": (
        "baselines=[random,herding,base]",
        "distiller.num_iterations=60",
        "schedule.max_student_epochs=100",
        "schedule.max_students=1",
        "stages=[distill,evaluate]",
    ),
    "generation": (
        "+experiment=digits_generative_ipc10",
        "schedule.max_generator_steps=60",
        "schedule.max_teacher_steps=60",
        "schedule.max_student_epochs=20",
        "schedule.max_students=1",
        "teachers.strict=false",
    ),
}


def draw_pixels(folder: Path) -> None:
    """Write a data set of random pictures that all revisions read."""
    noise = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", TEST)):
        for number in range(CLASSES):
            own = folder / split / f"n{number:02d}"
            own.mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(own / f"{index}.png")


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """Have a revision's files in a folder for as long as the block lasts."""
    tree = folder / "before"
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--detach", "--quiet", str(tree), revision], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def stage_seconds(tree: Path, overrides: tuple[str, ...]) -> dict[str, float]:
    """Make a run by a tree's program; seconds of each stage that told when it was done."""
    with tempfile.TemporaryDirectory() as folder:
        own = [f"run_dir={folder}/runs", f"cache_dir={folder}/cache", "name=timed"]
        command = [sys.executable, "experiments/run.py", *overrides, *own]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{tree.name}: {' '.join(command)}\n{done.stderr[-2000:]}")
    seconds: dict[str, float] = defaultdict(float)
    for match in DONE.finditer(done.stdout):
        seconds[re.sub(r" \d+/\d+", "", match["stage"])] += float(match["seconds"])
    return dict(seconds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="revision to compare with")
    cases = [*CASES, *DIGITS]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, metavar="CASE")
    parser.add_argument("--threads", type=positive, help="of a process; default: all cores")
    parser.add_argument("--repeats", type=positive, default=3, help="turns")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pixels(folder / "pixels")
        threads = f"trainer.threads={arguments.threads or 'null'}"
        pixels = (*PIXELS, f"data.root={folder}/pixels", threads)
        everything = {key: (*own, *pixels) for key, own in CASES.items()}
        everything |= DIGITS  # on one thread, as configured
        with checkout(arguments.before, folder) as before:
            for case in arguments.cases:
                turns = [
                    [stage_seconds(tree, everything[case]) for tree in (before, ROOT)]
                    for _ in range(arguments.repeats)
                ]
                for stage in (name for name in turns[0][0] if name in turns[0][1]):
                    old, new = (statistics.median(turn[k][stage] for turn in turns) for k in (0, 1))
                    rows.append({"case": case, "stage": stage, "before": old, "now": new})
                    print(f"{case}: {stage}: {old:.1f} s before, {new:.1f} s now", flush=True)
    if arguments.output is not None:
        result = {
            "before": arguments.before,
            "repeats": arguments.repeats,
            "threads": arguments.threads or torch.get_num_threads(),
            "rows": rows,
            "provenance": provenance(torch.device("cpu")),
        }
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
