"""Formats of one file with images and labels: DC and its heirs, IDC, IDM, DD-Ranking."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.foreign import Foreign
from geodm_lightning.exchange.label_kinds import mtt_order
from geodm_lightning.exchange.safe import load_pickle, load_torch
from geodm_lightning.exchange.spaces import from_unit, normalised_as
from geodm_lightning.files import write_atomically
from geodm_lightning.types import DatasetSpec, InputError

IDC_FACTOR = 2  # of all but IDC's own ImageNet subsets, which have 3
IDM_FACTOR = 2
IMAGE_TENSOR = "image_tensor"  # argument of DD-Ranking's compute_metrics
ANY = Declaration()


def as_tensor(value: Any, what: str, path: Path) -> Tensor:
    """Return a tensor, or stack a list of tensors or arrays of one shape.

    Raises:
        InputError: If it is neither, or the shapes are mixed.
    """
    try:
        if isinstance(value, Tensor):
            tensor = value.detach()
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            shapes = sorted({tuple(entry.shape) for entry in value})
            if len(shapes) > 1:
                raise InputError(
                    f"{what} in {path} are of mixed shapes {shapes[:3]}; make them one"
                )
            tensor = torch.stack([entry.detach() for entry in value])
        else:
            tensor = torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        kind = type(value).__name__
        raise InputError(f"{what} in {path} are no tensor but {kind}: another format?") from error
    if tensor.is_complex() or tensor.ndim == 0:
        raise InputError(f"{what} in {path} are no rows of real numbers: another format?")
    return tensor


def as_number(value: Any, what: str, path: Path) -> float:
    """Return a finite number, also where it is a tensor of one.

    Raises:
        InputError: If it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} in {path} is no number but {type(value).__name__}") from error
    if not math.isfinite(number):
        raise InputError(f"{what} in {path} is {number}, not a finite number")
    return number


def read_dc(path: Path, spec: DatasetSpec, declared: Declaration, content: Any = None) -> Foreign:
    """Read ``res_*.pt`` or ``syn_data_*.pt``: a dictionary whose ``data`` lists experiments.

    This reader and others of one file take its ``content`` where that was loaded before.
    """
    content = load_torch(path) if content is None else content
    sets = content.get("data") if isinstance(content, dict) else None
    if not isinstance(sets, (list, tuple)) or not sets:
        raise InputError(f"{path} has no list 'data' of experiments: not the format of DC")
    if not all(isinstance(entry, (list, tuple)) for entry in sets):
        sets = [sets]  # DataDAM keeps the one set unlisted
    if not -len(sets) <= declared.experiment < len(sets):
        raise InputError(
            f"{path} holds {len(sets)} sets, there is no experiment={declared.experiment}"
        )
    chosen = declared.experiment % len(sets)
    warnings = () if len(sets) == 1 else (f"took set {chosen} of {len(sets)}; experiment= chooses",)
    images, labels = _pair(sets[chosen], path)
    return Foreign(images, labels, (path,), warnings=warnings)


def read_idc(path: Path, spec: DatasetSpec, declared: Declaration, content: Any = None) -> Foreign:
    """Read ``data.pt``: a list of images and labels."""
    images, labels = _pair(load_torch(path) if content is None else content, path)
    return Foreign(images, labels, (path,), factor=IDC_FACTOR)


def read_idm(path: Path, spec: DatasetSpec, declared: Declaration) -> Foreign:
    """Read ``acc_*.pkl``: a pickled pair, of which nothing but plain tensors is built."""
    images, labels = _pair(load_pickle(path), path)
    return Foreign(images, labels, (path,), factor=IDM_FACTOR)


def read_ddranking(
    path: Path, spec: DatasetSpec, declared: Declaration, content: Any = None
) -> Foreign:
    """Read what DD-Ranking is given, saved by the names of its arguments."""
    content = load_torch(path) if content is None else content
    if not isinstance(content, dict) or IMAGE_TENSOR not in content:
        raise InputError(f"{path} has no '{IMAGE_TENSOR}': not the arguments of DD-Ranking")
    images = as_tensor(content[IMAGE_TENSOR], "images", path)
    soft, rate = content.get("soft_labels"), content.get("syn_lr")
    return Foreign(
        images,
        None,
        (path,),
        soft_labels=None if soft is None else as_tensor(soft, "soft labels", path),
        learned={} if rate is None else {"lr": as_number(rate, "the rate", path)},
        order=theirs(spec),
    )


def theirs(spec: DatasetSpec) -> tuple[str, ...] | None:
    """Return the class names in the order of MTT and DD-Ranking, None where it is ours."""
    ranks = mtt_order(spec.name)
    return None if ranks is None else tuple(spec.class_names[rank] for rank in ranks)


def in_their_order(distilled: DistilledSet, spec: DatasetSpec) -> DistilledSet:
    """Return a set with its classes numbered, and its images listed, as MTT does."""
    ranks = mtt_order(spec.name)
    if ranks is None:
        return distilled
    labels = torch.tensor(ranks).argsort()[distilled.labels]
    order = labels.sort(stable=True).indices
    soft = distilled.soft_labels
    return distilled._replace(
        images=distilled.images[order],
        labels=labels[order],
        soft_labels=None if soft is None else soft[order][:, list(ranks)].contiguous(),
    )


def write_dc(target: Path, distilled: DistilledSet, spec: DatasetSpec) -> Path:
    """Write ``{"data": [[images, labels]], "accs_all_exps": {}}``, normalised, mosaics cut."""
    decoded = distilled.decode()
    images = from_unit(decoded.unit_images(), normalised_as(spec, "dc", ANY))
    return save_torch(target, {"data": [[images, decoded.labels]], "accs_all_exps": {}})


def write_idc(target: Path, distilled: DistilledSet, spec: DatasetSpec) -> Path:
    """Write ``[images, labels]`` in unit range, mosaics as they are."""
    return save_torch(target, [distilled.unit_images().clone(), distilled.labels.clone()])


def write_idm(target: Path, distilled: DistilledSet, spec: DatasetSpec) -> Path:
    """Pickle ``(images, labels)``, normalised, mosaics as they are."""
    images = from_unit(distilled.unit_images(), normalised_as(spec, "idm", ANY))
    content = pickle.dumps((images, distilled.labels.clone()))
    return write_atomically(target, lambda path: path.write_bytes(content))


def write_ddranking(target: Path, distilled: DistilledSet, spec: DatasetSpec) -> Path:
    """Write the arguments of DD-Ranking: ``compute_metrics(**torch.load(FILE))``.

    Raises:
        InputError: If classes have different numbers of images, which it cannot express.
    """
    decoded = in_their_order(distilled.decode(), spec)
    counts = decoded.labels.bincount(minlength=spec.num_classes)
    if not bool((counts == counts[0]).all()):
        raise InputError(
            "DD-Ranking takes equally many images of every class, this set has "
            f"{int(counts.min())} to {int(counts.max())}; export it as hf or images"
        )
    images = from_unit(decoded.unit_images(), normalised_as(spec, "ddranking", ANY))
    soft, rate = decoded.soft_labels, decoded.manifest.get("learned", {}).get("lr")
    content = {IMAGE_TENSOR: images, "soft_labels": soft, "syn_lr": rate}
    return save_torch(target, content)


def save_torch(target: Path, content: Any) -> Path:
    """Write ``content`` by ``torch.save``, whole or not at all."""
    return write_atomically(target, lambda path: torch.save(content, path))


def _pair(content: Any, path: Path) -> tuple[Tensor, Tensor]:
    if not isinstance(content, (list, tuple)) or len(content) < 2:
        raise InputError(f"{path} holds no pair of images and labels: another format?")
    return as_tensor(content[0], "images", path), as_tensor(content[1], "labels", path)
