"""Soft labels on disk: one part per epoch, whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from geodm_lightning.files import write_atomically, write_json
from geodm_lightning.labels.encodings import Encoding, Kind, bytes_estimate
from geodm_lightning.types import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PARTS_HELD = 2  # parts mapped at once: students go through epochs one after the other


class LabelStore:
    """Logits of the views of all epochs, written by whole epochs.

    Processes write different epochs of one store at once. A part carries the SHA-256 of its
    tensors and of the store's identity, and appears under its name when it is whole. Use
    :meth:`open`.

    Attributes:
        folder: Where the parts are.
        encoding: How logits are kept.
        num_views: Views per epoch.
        num_epochs: Epochs that shall have labels; not part of the identity, so that a store
            may be continued to more.
        identity: What decides the labels, as given to :meth:`open`.
    """

    def __init__(
        self,
        folder: Path,
        encoding: Encoding,
        *,
        num_views: int,
        num_epochs: int,
        identity: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.encoding = encoding
        self.num_views = num_views
        self.num_epochs = num_epochs
        self.identity = identity
        text = json.dumps(self._manifest(), sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        self._held: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        kind: Kind,
        num_views: int,
        num_classes: int,
        num_epochs: int,
        top_k: int | None = None,
    ) -> LabelStore:
        """Create a store, or go on with the one in ``folder``.

        Args:
            folder: Folder of this store alone.
            identity: Plain values that decide the labels, nested as one likes: digest of the
                set, of the teachers, view recipe, seed.
            kind: ``fp16``, ``int8`` or ``topk``.
            num_views: Views per epoch.
            num_classes: Number of logits.
            num_epochs: Epochs that shall have labels.
            top_k: Logits kept by ``topk``.

        Returns:
            The store; nothing but the manifest is written.

        Raises:
            InputError: If the folder holds labels of another identity or a damaged manifest, or
                cannot be written.
        """
        encoding = Encoding(kind, num_classes, top_k)
        plain = json.loads(json.dumps(dict(identity)))
        store = cls(folder, encoding, num_views=num_views, num_epochs=num_epochs, identity=plain)
        path = folder / MANIFEST
        if path.is_file():
            store._compare(_read_manifest(path))
        else:
            write_json(path, store._manifest())
        return store

    def missing_epochs(self) -> list[int]:
        """Return the epochs without labels, ascending."""
        return [epoch for epoch in range(self.num_epochs) if not self.part(epoch).is_file()]

    def require_space(self) -> int:
        """Make sure that the disk has room for the missing epochs.

        Returns:
            The bytes they will take.

        Raises:
            InputError: If less is free.
        """
        needed = self.bytes_estimate(len(self.missing_epochs()))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"labels of {self.num_epochs} epochs need {needed / 1e9:.1f} GB in {self.folder}, "
                f"{free / 1e9:.1f} GB are free; keep them as int8 or topk, or ask teachers online"
            )
        return needed

    def bytes_estimate(self, num_epochs: int) -> int:
        """Return the bytes that so many epochs take."""
        return bytes_estimate(
            self.encoding.kind,
            num_views=self.num_views,
            num_classes=self.encoding.num_classes,
            num_epochs=num_epochs,
            top_k=self.encoding.top_k,
        )

    def part(self, epoch: int) -> Path:
        """Return where the labels of an epoch are or will be."""
        return self.folder / f"epoch_{epoch:05d}.safetensors"

    def write(self, epoch: int, logits: Tensor) -> Path:
        """Write the labels of one epoch.

        Args:
            epoch: Number of the epoch.
            logits: ``(num_views, K)`` of all views, in the order of their images.

        Returns:
            The part.

        Raises:
            InputError: If the shape is wrong, a logit cannot be kept, or the disk is full.
        """
        if len(logits) != self.num_views:
            raise InputError(f"an epoch has {self.num_views} views, got {len(logits)}")
        tensors = self.encoding.encode(logits)
        metadata = {"store": self._digest, "epoch": str(epoch), "sha256": _sha256(tensors)}
        content = save(tensors, metadata)
        return write_atomically(self.part(epoch), lambda path: path.write_bytes(content))

    def logits(self, epoch: int, indices: Tensor) -> Tensor:
        """Read labels of an epoch; its part is memory-mapped and checked when first read.

        Args:
            epoch: Number of the epoch.
            indices: ``(n,)`` int64 images, on any device.

        Returns:
            ``(n, K)`` float32 on the CPU.

        Raises:
            InputError: If the epoch has no labels, or its part is damaged or of another store.
        """
        if epoch not in self._held:
            self._held[epoch] = self._read(epoch)
            if len(self._held) > PARTS_HELD:
                self._held.popitem(last=False)
        rows = indices.cpu()
        part = self._held[epoch]
        return self.encoding.decode({name: value[rows] for name, value in part.items()})

    def _read(self, epoch: int) -> dict[str, Tensor]:
        path = self.part(epoch)
        if not path.is_file():
            raise InputError(f"{self.folder} has no labels of epoch {epoch}; run relabel first")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _damaged(path, f"cannot be read ({error})") from error
        if metadata.get("sha256") != _sha256(tensors):
            raise _damaged(path, "does not have the SHA-256 it names")
        if metadata.get("store") != self._digest or metadata.get("epoch") != str(epoch):
            raise _damaged(path, "is of another store or epoch")
        return tensors

    def _manifest(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.encoding.kind,
            "top_k": self.encoding.top_k,
            "num_views": self.num_views,
            "num_classes": self.encoding.num_classes,
            "identity": self.identity,
        }

    def _compare(self, found: dict[str, Any]) -> None:
        there, now = _flat(found), _flat(self._manifest())
        for key in sorted(there.keys() | now.keys()):
            if there.get(key) != now.get(key):
                raise InputError(
                    f"label store {self.folder} was made with another "
                    f"{key.removeprefix('identity.')} (there "
                    f"{there.get(key)}, now {now.get(key)}); delete it or choose another folder"
                )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "holds no JSON object")
    return manifest


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"damaged label store: {path} {reason}; delete it and run relabel again")
