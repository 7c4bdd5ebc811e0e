"""What the caller declares of a foreign set, and what reading it gives."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.types import InputError

SPACES = ("unit", "normalised", "zca", "uint8")
LABEL_KINDS = ("classes", "logits", "probabilities")
FKD_SEED = 42  # default of SRe2L's relabelling and training scripts


class Declaration(NamedTuple):
    """What the caller says of a foreign set; None is inferred, with a warning.

    Attributes:
        format: A key of :data:`~geodm_lightning.exchange.formats.FORMATS`.
        space: Of the stored pixels: ``unit``, ``normalised``, ``zca`` or ``uint8``.
        factor: Tiles per side of a mosaic, 1 for whole images.
        labels: ``classes``, ``logits`` or ``probabilities``.
        order: Class names or folder names in the order of the stored labels.
        zca: File with ``mean`` ``(D,)`` and ``matrix`` ``(D, D)`` of the whitening, to undo it.
        experiment: Which of several sets in one file (DC, DSA, DM); -1 is the last.
        mean: Normalisation the pixels were made with, None for the catalog's.
        std: Likewise.
        views: Folder ``epoch_E/batch_B.tar`` of FKD labels, where it is not beside the images.
        seed: Of the sampler that ordered the images for FKD labels.
    """

    format: str | None = None
    space: str | None = None
    factor: int | None = None
    labels: str | None = None
    order: tuple[str, ...] | None = None
    zca: Path | None = None
    experiment: int = -1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    views: Path | None = None
    seed: int = FKD_SEED

    def check(self) -> None:
        """Refuse a declaration that no set could have.

        Raises:
            InputError: Naming the value and the valid ones.
        """
        for name, value, valid in (
            ("space", self.space, SPACES),
            ("labels", self.labels, LABEL_KINDS),
        ):
            if value is not None and value not in valid:
                raise InputError(f"unknown {name}={value}; choose one of {', '.join(valid)}")
        if self.factor is not None and self.factor < 1:
            raise InputError(f"factor must be positive, got {self.factor}; 1 means whole images")
        if self.zca is not None and self.space not in (None, "zca"):
            raise InputError(f"zca={self.zca} undoes a whitening, space={self.space} has none")


class Imported(NamedTuple):
    """A set read from a file or folder of any format.

    Attributes:
        distilled: The set, class by class, in unit range or 8 bits, on the CPU.
        warnings: What was inferred, one line each.
        views: Folder of FKD labels, if the set came with some; see
            :func:`~geodm_lightning.exchange.views.import_views`.
        order: ``(N,)`` int64 position in ``distilled`` of each image in the order of the files,
            which the FKD labels count by; None where there are none.
    """

    distilled: DistilledSet
    warnings: tuple[str, ...] = ()
    views: Path | None = None
    order: Tensor | None = None
