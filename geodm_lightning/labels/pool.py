"""Teacher pools: the mean of what several teachers say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from geodm_lightning.labels.teachers import Teacher
from geodm_lightning.site import Precision
from geodm_lightning.types import InputError


class TeacherPool(nn.Module):
    """Teachers whose logits are averaged, without temperature (EDC).

    Args:
        teachers: The teachers, in the order in which low IPC takes a prefix of them.
        precision: ``32-true`` or ``bf16-mixed``.
        chunk_size: Images a network sees at once; decides memory, and labels up to rounding.

    Raises:
        InputError: If there is no teacher.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        *,
        precision: Precision = "32-true",
        chunk_size: int = 256,
    ) -> None:
        super().__init__()
        if not teachers:
            raise InputError("soft labels need at least one teacher")
        self.teachers = nn.ModuleList(teachers).eval()
        self.precision = precision
        self.chunk_size = chunk_size

    def __len__(self) -> int:
        return len(self.teachers)

    def prefix(self, count: int) -> TeacherPool:
        """Return a pool of the first ``count`` teachers."""
        if not 1 <= count <= len(self):
            raise InputError(f"cannot take {count} of {len(self)} teachers")
        teachers = [teacher for teacher in self.teachers if isinstance(teacher, Teacher)][:count]
        return TeacherPool(teachers, precision=self.precision, chunk_size=self.chunk_size)

    def answers(self, images: Tensor) -> Tensor:
        """Return the logits of every teacher.

        Args:
            images: ``(n, ch, h, w)`` normalised by the data set.

        Returns:
            ``(teachers, n, K)`` float32 without gradient, on the device of ``images``.
        """
        with torch.inference_mode(), self._autocast(images):
            chunks = [
                torch.stack([teacher(chunk).float() for teacher in self.teachers])
                for chunk in images.split(self.chunk_size)
            ]
        return torch.cat(chunks, dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Return the mean of the teachers' logits ``(n, K)``, as :meth:`answers` otherwise."""
        return self.answers(images).mean(0)

    def digest(self) -> str:
        """Return a SHA-256 of all that decides the labels of given images, up to rounding."""
        parts = [teacher.digest() for teacher in self.teachers if isinstance(teacher, Teacher)]
        return hashlib.sha256("/".join([*parts, self.precision]).encode()).hexdigest()

    def _autocast(self, images: Tensor) -> torch.autocast:
        enabled = self.precision == "bf16-mixed"
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled)


def aligned_prefix(counts: Mapping[int, int], ipc: int) -> int:
    """Return how many teachers label a set of ``ipc`` images per class (LIA).

    Args:
        counts: Number of teachers by images per class, for example ``{1: 4, 10: 4, 50: 6}``.
        ipc: Images per class.

    Returns:
        The entry of the largest listed number that ``ipc`` reaches.

    Raises:
        InputError: If ``ipc`` is below every entry.
    """
    reached = [listed for listed in counts if listed <= ipc]
    if not reached:
        raise InputError(f"no number of teachers is listed for {ipc} images per class: {counts}")
    return counts[max(reached)]
