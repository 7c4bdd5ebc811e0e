"""What the command line says of sets made elsewhere, as overrides of the configuration."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.distilled.manifest import MANIFEST, read_manifest
from geodm_lightning.methods import called
from geodm_lightning.types import InputError

USAGE = (
    "usage: python experiments/evaluate.py distilled=PATH|GLOB|[PATH,…] [data=NAME] [format=NAME] "
    "[space=…] [factor=…] [labels=…] [order=…] [zca=FILE] [experiment=N] [evaluation=NAME] "
    "[supervision=own] [architectures=published] [num_seeds=N] [scores=robust] [key=value …]"
)
ASKING = {"-h", "--help", "--hydra-help", "--version", "--list"}
# Arguments that speak of the set, by the setting they stand for.
DECLARED = {
    name: f"distiller.{name}"
    for name in ("format", "space", "factor", "labels", "order", "zca", "experiment", "mean", "std")
} | {"views": "distiller.views", "fkd_seed": "distiller.fkd_seed"}
STAGES = "[distill,relabel,evaluate,audit,report]"
SCORED_STAGES = "[distill,relabel,evaluate,audit,score,report]"


def overrides_of(arguments: list[str]) -> list[str]:
    """Turn ``distilled=PATH`` and its companions into overrides of the configuration.

    Whatever is not said takes the value that judges a set as published: the protocol uncut
    (``schedule=full``), the ConvNet that fits the images, random real images of the same number
    beside it. A native set names its data set itself. Arguments without ``distilled`` are
    returned as they are, so that a process may start others by the same line.

    Args:
        arguments: Command line without the program.

    Raises:
        InputError: If no set is named, or one does not tell its data set and nobody else does.
    """
    said = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "distilled" not in said:
        if said.get("distiller") == "imported" or not ASKING.isdisjoint(arguments):
            return arguments
        raise InputError(USAGE)
    rows = [seeds_of(path) for path in paths_in(said["distilled"])]
    scored = said.get("scores")
    if scored not in (None, "robust"):
        raise InputError(f"unknown scores={scored}; use scores=robust, or leave it out")
    kept = [
        argument for argument in arguments if not argument.startswith(("distilled=", "scores="))
    ]
    overrides = [renamed(argument) for argument in kept]
    defaults = {
        "distiller": "imported",
        "distiller.path": listed([row[0] if len(row) == 1 else row for row in rows]),
        **defaults_of(rows, said),
        "baselines": "[random]",
        "stages": SCORED_STAGES if "scores" in said else STAGES,
    }
    unsaid = [f"{key}={value}" for key, value in defaults.items() if key not in said]
    flags = [word for word in overrides if "=" not in word and not word.startswith("~")]
    return [*flags, *unsaid, *(word for word in overrides if word not in flags)]


def defaults_of(rows: list[list[str]], said: dict[str, str]) -> dict[str, str]:
    """Return data set, network, schedule, names and seeds that the sets ask for.

    Raises:
        InputError: If no set is native and the data set is not said.
    """
    manifests = [manifest_of(Path(row[0])) for row in rows]
    native = next((manifest for manifest in manifests if manifest), None)
    values = {"distiller.name": listed(labels_of(rows, manifests)), "ipc": "null"}
    values["num_seeds"] = str(max(map(len, rows)))
    stem = slug(str(rows[0][0]), manifests[0]) + ("" if len(rows) == 1 else f"_and_{len(rows) - 1}")
    if "+experiment" in said:
        return {**values, "name": f"{stem}_{said['+experiment']}"}
    if native is None and "data" not in said and "data.name" not in said:
        raise InputError(f"{rows[0][0]} does not tell its data set; add data=NAME, such as cifar10")
    if native is not None and "data" not in said:
        name, resolution = native["dataset"]["name"], native["dataset"]["resolution"]
        values["data"] = name
        if resolution != dataset_spec(name).resolution:
            values["data.resolution"] = str(resolution)
    small = said.get("data", values.get("data")) == "digits"
    protocol, schedule = said.get("evaluation", "protocol_a"), said.get("schedule", "full")
    shortened = "" if schedule == "full" else f"_{schedule}"
    return {
        **values,
        "network": "convnet_small" if small else "convnet",
        "trainer": "small" if small else "auto",
        "evaluation": protocol,
        "schedule": schedule,
        "name": f"{stem}_{protocol}{shortened}",
    }


def paths_in(text: str) -> list[str]:
    """Return the paths of ``PATH`` or ``[PATH,PATH]``.

    Raises:
        InputError: If the list is not closed or a path is missing.
    """
    if not text.startswith("["):
        paths = [text]
    elif text.endswith("]"):
        paths = [part.strip().strip("'\"") for part in text[1:-1].split(",")]
    else:
        raise InputError(f"distilled={text} is a list that does not end; close it by ]")
    if not all(paths):
        raise InputError(f"distilled={text} lacks a path; {USAGE}")
    return [os.path.normpath(Path(path).expanduser()) for path in paths]


def seeds_of(path: str) -> list[str]:
    """Return the sets of a glob, one for each seed in the order of their numbers; else the path.

    Raises:
        InputError: If nothing lies there.
    """
    if Path(path).exists():
        return [path]
    found = glob.glob(path) if glob.has_magic(path) else []  # noqa: PTH207  # keeps the form given
    if not found:
        raise InputError(f"there is no distilled set at {path}; correct the path")
    return sorted(found, key=by_number)


def by_number(path: str) -> list[tuple[bool, str]]:
    """Return a key that sorts paths by the numbers in them, 2 before 10."""
    return [(piece.isdigit(), piece.zfill(12)) for piece in re.split(r"(\d+)", path)]


def manifest_of(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a native set, None for anything else.

    Raises:
        InputError: If it is a native set whose manifest is damaged.
    """
    return read_manifest(path) if (path / MANIFEST).is_file() else None


def labels_of(rows: list[list[str]], manifests: list[dict[str, Any] | None]) -> list[str]:
    """Return how the rows are called: by their manifests or paths, told apart where need be."""
    labels = [
        called(row[0]) if manifest is None else str(manifest["label"])
        for row, manifest in zip(rows, manifests, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label}, {called(row[0])}"
        for label, row in zip(labels, rows, strict=True)
    ]


def slug(path: str, manifest: dict[str, Any] | None) -> str:
    """Return a name for the run's folder."""
    if manifest is None:
        return re.sub(r"[^\w.-]+", "_", called(path))
    return f"{manifest['dataset']['name']}_ipc{manifest['ipc']}_{manifest['method']}"


def renamed(argument: str) -> str:
    """Return an argument under the name of the setting it stands for."""
    key, equals, value = argument.partition("=")
    if key not in DECLARED:
        return argument
    if key in ("zca", "views"):
        value = listed(value)
    return f"{DECLARED[key]}{equals}{value}"


def listed(value: Any) -> str:
    """Return paths or names as Hydra reads them back."""
    if isinstance(value, list):
        return f"[{','.join(listed(item) for item in value)}]"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
