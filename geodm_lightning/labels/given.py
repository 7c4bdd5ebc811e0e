"""Views and labels made elsewhere, played back batch by batch as they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from geodm_lightning.files import sha256_of, write_atomically, write_json
from geodm_lightning.types import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LENGTHS = "lengths"
Mix = Literal["none", "cutmix", "mixup"]
COUNTS = ("epochs", "num_images", "num_classes", "resolution")


class GivenBatch(NamedTuple):
    """One batch of views with their labels, as a student sees it; on the CPU.

    A view is the image's crop, brought to size, then mirrored where ``flips`` says. ``cutmix``
    then puts the patch ``boxes`` of the partner's view over it; ``mixup`` blends the two, the
    view's own share being ``shares``. ``logits`` are of the mixed view.

    Attributes:
        indices: ``(n,)`` int64 images of the set.
        crops: ``(n, 4)`` float64 top, left, height and width in shares of the image's side.
        flips: ``(n,)`` bool.
        partners: ``(n,)`` int64 positions in this batch; one's own where nothing is mixed.
        boxes: ``(n, 4)`` int64 top, left, bottom and right of the patch in pixels of the view,
            of no area where there is none.
        shares: ``(n,)`` float32 share of one's own in the mixture, as the maker recorded it.
        logits: ``(n, K)`` float16.
    """

    indices: Tensor
    crops: Tensor
    flips: Tensor
    partners: Tensor
    boxes: Tensor
    shares: Tensor
    logits: Tensor


KEPT = {  # dtype on disk and in a batch
    "indices": (torch.int32, torch.int64),
    "crops": (torch.float32, torch.float64),
    "flips": (torch.bool, torch.bool),
    "partners": (torch.int32, torch.int64),
    "boxes": (torch.int32, torch.int64),
    "shares": (torch.float32, torch.float32),
    "logits": (torch.float16, torch.float16),
}


class GivenViews:
    """Views and labels of all epochs in a folder: a manifest and one part per epoch.

    Args:
        folder: Folder written by :meth:`write`.

    Attributes:
        folder: Where the parts are.
        epochs: How many there are.
        num_images: Images of the set they are of.
        num_classes: Logits per view.
        resolution: Height and width of a view in pixels, the unit of ``boxes``.
        mix: ``none``, ``cutmix`` or ``mixup``.

    Raises:
        InputError: If there is no manifest, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        manifest = _read_manifest(folder)
        self.folder = folder
        self.epochs, self.num_images, self.num_classes, self.resolution = (
            int(manifest[name]) for name in COUNTS
        )
        self.mix: Mix = manifest["mix"]
        self._sha256: list[str] = manifest["sha256"]
        self._checked: set[int] = set()

    @classmethod
    def write(
        cls,
        folder: Path,
        epochs: Iterable[Sequence[GivenBatch]],
        *,
        num_images: int,
        resolution: int,
        mix: Mix,
        source: dict[str, Any],
    ) -> GivenViews:
        """Write views; the manifest comes last, without it there are none.

        Args:
            folder: Folder to make, or to fill anew.
            epochs: The batches of each epoch.
            num_images: Images of the set.
            resolution: Height and width of a view in pixels.
            mix: How views were mixed.
            source: Plain values that say where they are from.

        Returns:
            The views.

        Raises:
            InputError: If a batch refers to what is not there, or the folder cannot be written.
        """
        (folder / MANIFEST).unlink(missing_ok=True)
        hashes, num_classes = [], 0
        for epoch, batches in enumerate(epochs):
            for position, batch in enumerate(batches):
                problem = _problem(batch, num_images, resolution, num_classes)
                if problem:
                    raise InputError(f"epoch {epoch}, batch {position} of given views: {problem}")
                num_classes = batch.logits.shape[1]
            hashes.append(_write(_path(folder, epoch), save(_part(batches))))
        if not hashes:
            raise InputError("there are no epochs of given views")
        counts = dict(zip(COUNTS, (len(hashes), num_images, num_classes, resolution), strict=True))
        values = {"format_version": FORMAT_VERSION, **counts, "mix": mix, "source": source}
        write_json(folder / MANIFEST, {**values, "sha256": hashes})
        return cls(folder)

    def batches(self, epoch: int) -> Iterator[GivenBatch]:
        """Play back an epoch; only the rows of one batch are read at a time.

        Args:
            epoch: Below ``epochs``.

        Raises:
            InputError: If there is no such epoch, or its part is missing or damaged.
        """
        if not 0 <= epoch < self.epochs:
            raise InputError(f"{self.folder} has views of {self.epochs} epochs, not of {epoch}")
        path = _path(self.folder, epoch)
        self._check(epoch, path)
        with safe_open(path, framework="pt") as file:
            columns = {name: file.get_slice(name) for name in KEPT}
            start = 0
            for length in file.get_tensor(LENGTHS).tolist():
                rows = {
                    name: columns[name][start : start + length].to(kinds[1])
                    for name, kinds in KEPT.items()
                }
                yield GivenBatch(**rows)
                start += length

    def digest(self) -> str:
        """Return a SHA-256 over the parts and how they are mixed."""
        return hashlib.sha256(" ".join([self.mix, *self._sha256]).encode()).hexdigest()

    def _check(self, epoch: int, path: Path) -> None:
        if epoch in self._checked:
            return
        if not path.is_file():
            raise _damaged(path, "is missing")
        if sha256_of(path) != self._sha256[epoch]:
            raise _damaged(path, "does not have the SHA-256 the manifest names")
        try:
            with safe_open(path, framework="pt") as file:
                missing = {LENGTHS, *KEPT} - set(file.keys())
        except (OSError, SafetensorError) as error:
            raise _damaged(path, f"cannot be read ({error})") from error
        if missing:
            raise _damaged(path, f"lacks {', '.join(sorted(missing))}")
        self._checked.add(epoch)


def _part(batches: Sequence[GivenBatch]) -> dict[str, Tensor]:
    columns = {
        name: torch.cat([getattr(batch, name).to(kinds[0]) for batch in batches]).contiguous()
        for name, kinds in KEPT.items()
    }
    return {LENGTHS: torch.tensor([len(batch.indices) for batch in batches]), **columns}


def _write(path: Path, content: bytes) -> str:
    write_atomically(path, lambda target: target.write_bytes(content))
    return hashlib.sha256(content).hexdigest()


def _problem(batch: GivenBatch, num_images: int, resolution: int, num_classes: int) -> str | None:
    """What is wrong with a batch, None if nothing is."""
    size = len(batch.indices)
    if size == 0 or any(len(column) != size for column in batch):
        return f"columns of {[len(column) for column in batch]} rows"
    if num_classes and batch.logits.shape[1] != num_classes:
        return f"{batch.logits.shape[1]} logits, {num_classes} before"
    if not batch.logits.isfinite().all():
        return "logits that are not finite"
    limits = {"indices": num_images, "partners": size, "boxes": resolution + 1}
    for name, limit in limits.items():
        values = getattr(batch, name)
        if int(values.min()) < 0 or int(values.max()) >= limit:
            return f"{name} from {int(values.min())} to {int(values.max())}, not below {limit}"
    heights = batch.crops[:, 2:]
    if not (batch.crops >= 0).all() or not (heights > 0).all() or not (batch.crops <= 1).all():
        return "crops that leave the image"
    if not ((batch.shares >= 0) & (batch.shares <= 1)).all():
        return "shares outside [0, 1]"
    return None


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:05d}.safetensors"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"no given views in {folder}: {MANIFEST} is missing; import the set again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise _damaged(path, f"is not of format_version {FORMAT_VERSION}")
    if not all(isinstance(manifest.get(name), int) for name in COUNTS):
        raise _damaged(path, f"lacks one of {', '.join(COUNTS)}")
    hashes = manifest.get("sha256")
    if manifest.get("mix") not in get_args(Mix) or not isinstance(hashes, list):
        raise _damaged(path, "lacks mix or sha256")
    if len(hashes) != manifest["epochs"]:
        raise _damaged(path, f"names {len(hashes)} parts of {manifest['epochs']} epochs")
    return manifest


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"damaged given views: {path} {reason}; delete them and import the set again")
