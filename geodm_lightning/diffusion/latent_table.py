"""Latents on disk, row by row, written by several processes and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodm_lightning.files import write_json
from geodm_lightning.types import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
VALUES = "latents.bin"
CHECKSUMS = "checksums.bin"
CHECKSUM_BYTES = 16
DTYPES = {torch.float16: np.float16, torch.float32: np.float32}


class LatentTable:
    """An array ``(classes, images, ch, h, w)`` on disk of which every row has a checksum.

    A row is one image of one class. Its checksum is written after its values, so a process
    killed at any moment loses at most the row it was writing, and processes may write different
    rows of one table at the same time. Values are read through a memory map and written by
    position, so a full disk is an error and not a signal.

    Note:
        Made by :meth:`open`.
    """

    def __init__(
        self,
        folder: Path,
        rows_shape: tuple[int, int],
        latent_shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.folder = folder
        self.rows_shape = rows_shape
        self.latent_shape = latent_shape
        self.dtype = dtype
        self._row_bytes = dtype.itemsize * int(np.prod(latent_shape))

    @classmethod
    def open(
        cls,
        folder: Path,
        rows_shape: tuple[int, int],
        latent_shape: tuple[int, ...],
        dtype: torch.dtype,
        identity: dict[str, Any],
    ) -> LatentTable:
        """Create a table or reopen one made alike.

        Args:
            folder: Folder of the table.
            rows_shape: ``(classes, images)``.
            latent_shape: ``(ch, h, w)``.
            dtype: float16 or float32.
            identity: Plain values that decide the latents.

        Returns:
            The table; its files take their room only as rows are written.

        Raises:
            InputError: If the table there is of another identity, shape or type, is damaged, or
                cannot be written.
        """
        if dtype not in DTYPES:
            raise InputError(f"latents of type {dtype}; choose float16 or float32")
        manifest = {
            "format_version": FORMAT_VERSION,
            "rows_shape": list(rows_shape),
            "latent_shape": list(latent_shape),
            "dtype": str(dtype).removeprefix("torch."),
            **json.loads(json.dumps(identity)),
        }
        table = cls(folder, rows_shape, latent_shape, dtype)
        try:
            table._join(manifest)
        except OSError as error:
            raise _unwritable(folder, error) from error
        return table

    def missing(self) -> Tensor:
        """Return which rows are not there, ``(classes, images)`` bool.

        All values are read: a row whose checksum does not hold, for example after a power cut,
        counts as missing and is made again.
        """
        values, checksums = self._maps()
        valid = [
            checksums[row].any() and self._checksum(row, values[row]) == checksums[row].tobytes()
            for row in range(len(values))
        ]
        return ~torch.tensor(valid, dtype=torch.bool).reshape(self.rows_shape)

    def write(self, classes: Tensor, images: Tensor, values: Tensor) -> None:
        """Write some rows, each whole or not at all.

        Args:
            classes: ``(...)`` int64, first index of each row; broadcast against ``images``.
            images: ``(...)`` int64, second index.
            values: ``(..., ch, h, w)`` on the CPU; rounded to the table's type.

        Raises:
            IndexError: If a row lies outside the table.
            ValueError: If the shape does not fit.
            InputError: If a value is not finite in the table's type, the disk is full or the
                folder is gone.
        """
        rows = self._rows(classes, images)
        expected = (*rows.shape, *self.latent_shape)
        if tuple(values.shape) != expected:
            raise ValueError(f"values of shape {tuple(values.shape)}, expected {expected}")
        plain = values.detach().to(self.dtype).reshape(rows.size, -1)
        if not plain.isfinite().all():
            raise InputError(
                f"latents of {self.folder} are not finite in {self.dtype}; choose a smaller "
                f"guidance scale, another model or float32"
            )
        try:
            with (
                (self.folder / VALUES).open("rb+", buffering=0) as value_file,
                (self.folder / CHECKSUMS).open("rb+", buffering=0) as checksum_file,
            ):
                for row, latent in zip(rows.ravel().tolist(), plain.numpy(), strict=True):
                    checksum = self._checksum(row, latent)
                    at = row * CHECKSUM_BYTES
                    _write_at(checksum_file.fileno(), bytes(CHECKSUM_BYTES), at)
                    _write_at(value_file.fileno(), latent.tobytes(), row * self._row_bytes)
                    _write_at(checksum_file.fileno(), checksum, at)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def read(self, classes: Tensor, images: Tensor) -> Tensor:
        """Read some rows and verify their checksums.

        Args:
            classes: ``(...)`` int64, first index of each row; broadcast against ``images``.
            images: ``(...)`` int64, second index.

        Returns:
            ``(..., ch, h, w)`` float32 latents on the CPU.

        Raises:
            IndexError: If a row lies outside the table.
            InputError: If a row was never written or is damaged.
        """
        rows = self._rows(classes, images)
        values, checksums = self._maps()
        for row in rows.ravel().tolist():
            if self._checksum(row, values[row]) != checksums[row].tobytes():
                which = f"image {row % self.rows_shape[1]} of class {row // self.rows_shape[1]}"
                reason = "is damaged" if checksums[row].any() else "was never written"
                raise InputError(
                    f"latents in {self.folder}: {which} {reason}; run the stage again to make the "
                    f"row anew or delete the folder"
                )
        chosen = np.array(values[rows.ravel()]).reshape(*rows.shape, *self.latent_shape)
        return torch.from_numpy(chosen).float()

    def _join(self, manifest: dict[str, Any]) -> None:
        sizes = {VALUES: self._row_bytes, CHECKSUMS: CHECKSUM_BYTES}
        # Looked for before the manifest: another process may be making both, manifest first.
        has_values = (self.folder / VALUES).is_file()
        if not (self.folder / MANIFEST).is_file():
            if has_values:
                raise _damaged(self.folder, f"{MANIFEST} is missing")
            write_json(self.folder / MANIFEST, manifest)
        self._compare(manifest)
        for name, row_bytes in sizes.items():
            size = row_bytes * int(np.prod(self.rows_shape))
            descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size > size:
                    raise _damaged(self.folder, f"{name} is longer than its {size} bytes")
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def _compare(self, manifest: dict[str, Any]) -> None:
        try:
            found = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _damaged(self.folder, f"{MANIFEST} is not JSON") from error
        if not isinstance(found, dict):
            raise _damaged(self.folder, f"{MANIFEST} is not an object")
        for key in sorted(found.keys() | manifest.keys()):
            if found.get(key) != manifest.get(key):
                raise InputError(
                    f"latents in {self.folder} were made with another {key} (there "
                    f"{_short(found.get(key))}, now {_short(manifest.get(key))}); delete the "
                    f"folder or choose another"
                )

    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        num_rows = int(np.prod(self.rows_shape))
        shapes = {VALUES: (num_rows, self._row_bytes), CHECKSUMS: (num_rows, CHECKSUM_BYTES)}
        maps = []
        for name, shape in shapes.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != shape[0] * shape[1]:
                raise _damaged(self.folder, f"{name} is missing or cut short")
            maps.append(np.memmap(path, np.uint8, mode="r", shape=shape))
        length = self._row_bytes // self.dtype.itemsize
        return maps[0].view(DTYPES[self.dtype]).reshape(num_rows, length), maps[1]

    def _rows(self, classes: Tensor, images: Tensor) -> np.ndarray:
        pair = np.broadcast_arrays(np.asarray(classes), np.asarray(images))
        for index, size in zip(pair, self.rows_shape, strict=True):
            if index.size and not 0 <= index.min() <= index.max() < size:
                raise IndexError(f"row {index.min()} to {index.max()} of a table {self.rows_shape}")
        return pair[0] * self.rows_shape[1] + pair[1]

    @staticmethod
    def _checksum(row: int, latent: np.ndarray) -> bytes:
        """The row's number enters, so rows that changed places are noticed."""
        digest = hashlib.sha256(row.to_bytes(8, "little"))
        digest.update(latent.tobytes())
        return digest.digest()[:CHECKSUM_BYTES]


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}…"


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write latents in {folder}: {error.strerror or error}; choose another folder with "
        f"run_dir=PATH or free space"
    )


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"damaged latents in {folder}: {reason}; delete the folder to make them anew")
