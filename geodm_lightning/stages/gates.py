"""What would waste hours, looked for in a set before anyone trains on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softmax

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import is_complete, load_set
from geodm_lightning.stages.class_order import order_problem
from geodm_lightning.stages.pixel_range import range_problems
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.types import DatasetSpec, InputError

WNID = re.compile(r"n\d{8}")
FEW = 0.01  # share of images up to which copies under another label are only told
MOST = 0.5


class Problem(NamedTuple):
    """What is wrong with a set.

    Attributes:
        text: One line that names the value and the likely cause.
        fatal: Whether training on the set would be a waste.
    """

    text: str
    fatal: bool = True


def check_gates(run: Run) -> None:
    """Look at every finished set of a run before students are trained on it.

    Whether teachers know the classes of a set is asked by the stage relabel, before they label
    anything.

    Args:
        run: The run; ``gates`` of its settings is ``"refuse"`` or ``"warn"``.

    Raises:
        InputError: For the first problem that would make training a waste, unless
            ``gates=warn``; everything else is printed, a line each.
    """
    sets = [method for method in run.methods if method.kind != "whole"]
    for method in sets:
        folder = run.folder.distilled(method.key, is_main=method.is_main)
        if not is_complete(folder):
            continue
        distilled = load_set(folder)
        problems = problems_of(distilled, run.data.spec)
        if not any(problem.fatal for problem in problems):
            order = order_problem(distilled.decode(), run.data.train)
            problems += [Problem(order)] if order else []
        _tell(run, f"the set of {method.label}", problems)


def _tell(run: Run, name: str, problems: list[Problem]) -> None:
    for problem in sorted(problems, key=lambda problem: not problem.fatal):
        if problem.fatal and run.settings["gates"] == "refuse":
            raise InputError(f"{name}: {problem.text}; gates=warn goes on all the same")
        if run.site.processes.is_main:
            line = f"warning: {name}: {problem.text}"
            CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def problems_of(distilled: DistilledSet, spec: DatasetSpec) -> list[Problem]:
    """Return what the set itself tells against it: classes, pixels, copies, labels.

    Args:
        distilled: The set.
        spec: The data set whose test images will judge it.
    """
    found = [*class_problems(distilled, spec)]
    found += [Problem(text, fatal) for text, fatal in range_problems(distilled, spec)]
    return [*found, *copy_problems(distilled), *label_problems(distilled, spec)]


def class_problems(distilled: DistilledSet, spec: DatasetSpec) -> Iterator[Problem]:
    """Compare the classes a set names with those of the data set."""
    named = class_names_of(distilled.manifest)
    if named and len(named) != spec.num_classes:
        yield Problem(f"it has {len(named)} classes, {spec.name} has {spec.num_classes}")
    elif named and named != spec.class_names:
        first = next(i for i, name in enumerate(spec.class_names) if named[i] != name)
        start = f"class {first} is {named[first]!r} there and {spec.class_names[first]!r} in "
        yield Problem(f"{start}{spec.name}: {_cause(named, spec.class_names)}")
    counts = torch.bincount(distilled.labels, minlength=spec.num_classes)
    if counts.min() == 0:
        label = int(counts.argmin())
        name = spec.class_names[label] if label < len(spec.class_names) else str(label)
        empty = int((counts == 0).sum())
        yield Problem(f"{empty} classes have no image, the first is {label} ({name})")
    elif counts.min() != counts.max():
        few, many = int(counts.min()), int(counts.max())
        yield Problem(f"classes have between {few} and {many} images", fatal=False)


def class_names_of(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names of a set in the order of its labels, empty if it names none."""
    named = manifest.get("classes") or {}
    names = named.get("names") if isinstance(named, dict) else named
    return tuple(names or manifest["dataset"].get("class_names") or ())


def _cause(there: tuple[str, ...], here: tuple[str, ...]) -> str:
    if set(there) == set(here):
        order = "the order of sorted folders" if list(there) == sorted(there) else "another order"
        return f"the same classes in {order}; declare the order its labels were made in"
    wnids = [all(WNID.fullmatch(name) for name in names) for names in (there, here)]
    if wnids[0] != wnids[1]:
        return "WordNet folders on one side, names on the other; declare which is which"
    both = len(set(there) & set(here))
    return f"only {both} of {len(here)} classes are the same; it is of another data set"


def copy_problems(distilled: DistilledSet) -> Iterator[Problem]:
    """Look for images that are there twice, to the last bit."""
    owners: dict[bytes, list[int]] = {}
    for index, image in enumerate(distilled.images):
        key = hashlib.sha256(image.contiguous().cpu().numpy().tobytes()).digest()
        owners.setdefault(key, []).append(index)
    groups = [indices for indices in owners.values() if len(indices) > 1]
    total = len(distilled.images)
    copies = sum(len(indices) - 1 for indices in groups)
    across = [i for i in groups if len(set(distilled.labels[i].tolist())) > 1]
    if across:
        share = sum(map(len, across)) / total
        a, b = distilled.labels[across[0]].unique()[:2].tolist()
        text = f"{sum(map(len, across))} of {total} images are there under several labels"
        yield Problem(
            f"{text}, for example as class {a} and {b}: labels of the wrong images?",
            fatal=share > FEW,
        )
    if copies:
        text = f"{copies} of {total} images are exact copies of others"
        yield Problem(text, fatal=copies >= MOST * total)


def label_problems(distilled: DistilledSet, spec: DatasetSpec) -> Iterator[Problem]:
    """Look at the soft labels that came with a set, if any did."""
    soft: Tensor | None = distilled.soft_labels
    if soft is None:
        return
    if soft.shape != (len(distilled.labels), spec.num_classes):
        shape = (len(distilled.labels), spec.num_classes)
        yield Problem(f"its soft labels have shape {tuple(soft.shape)}, not {shape}")
        return
    if not soft.isfinite().all():
        yield Problem("its soft labels are not finite")
        return
    sums = soft.sum(1)
    if soft.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        yield Problem(
            "its soft labels are probabilities, a second softmax would make them almost uniform; "
            "declare labels=probabilities"
        )
    if len(soft) > 1 and softmax(soft, 1).std(0).max() < 1e-6:
        yield Problem("its soft labels are the same for every image")
        return
    agree = (soft.argmax(1) == distilled.labels).double().mean().item()
    if agree < MOST:
        yield Problem(
            f"its soft labels agree with the class of only {agree:.1%} of the images: logits or "
            "labels are in the order of other class folders, or of other images"
        )
