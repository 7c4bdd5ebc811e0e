"""A data set by name: its spec, its two tables, and plain loaders over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from torch import Tensor

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.folders import scan_folders
from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.sources import download_pixels, is_in_memory, load_pixels
from geodm_lightning.data.table import FolderTable, ImageTable, TensorTable
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, InputError


class TableLoader:
    """Batches ``(normalised images (n, ch, h, w), labels (n,))`` of a table, on its device.

    Gathering from a table is one indexing operation (or a thread pool's work), so there are no
    worker processes. Every process sees all batches.

    Args:
        table: The images.
        batch_size: Images per batch; the last one may be smaller.
        seed: Seed of the shuffles, each keyed by how often the loader was iterated before;
            ``None`` keeps the table's order.
    """

    def __init__(self, table: ImageTable, *, batch_size: int, seed: int | None = None) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be positive, got {batch_size}")
        self._table = table
        self._seed = seed
        self._epoch = 0
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._table) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        table, epoch = self._table, self._epoch
        self._epoch += 1
        for indices in self._order(epoch).split(self._batch_size):
            labels = table.labels[indices.to(table.device, non_blocking=True)]
            yield normalise(table.gather(indices), table.spec), labels

    def _order(self, epoch: int) -> Tensor:
        if self._seed is None:
            return torch.arange(len(self._table))
        generator = keyed_generator(self._seed, "shuffle", epoch)
        return torch.randperm(len(self._table), generator=generator)


class RealDataModule(lightning.LightningDataModule):
    """The real images of one data set.

    Args:
        name: A name of :func:`~geodm_lightning.data.catalog.catalog`.
        root: Folder of all data sets; for image folders also the data set's own folder.
        download: Whether to fetch a missing data set; not offered for image folders.
        resolution: Pixels per side of image-folder data; ``None`` takes the catalog's.
        batch_size: Images per batch of the two loaders.
        seed: Seed of the training loader's shuffles.
        validation: Share of the training images of every class that is held out, by
            :func:`held_out`, and tested on instead of the test images; 0 holds out nothing.

    Attributes:
        spec: The data set; after :meth:`setup` with the classes found on disk.
        train: Training table, after :meth:`setup`.
        test: Test table, after :meth:`setup`; the held-out images where there are some.
        tested_on: ``"test"`` or ``"validation"``: what :attr:`test` holds.

    Raises:
        InputError: If the name is unknown, the resolution cannot be chosen, or a class would have
            no image left to train on.

    Example:
        >>> data = RealDataModule("digits")
        >>> data.setup()
        >>> indices = data.train.draw(4, generator=torch.Generator().manual_seed(0))
        >>> data.train.gather(indices).shape
        torch.Size([10, 4, 1, 8, 8])
    """

    spec: DatasetSpec
    train: ImageTable
    test: ImageTable

    def __init__(
        self,
        name: str,
        *,
        root: str | Path = "datasets",
        download: bool = False,
        resolution: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
        validation: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= validation < 1:
            raise InputError(
                f"data.validation is the share of training images held out, at least 0 and below "
                f"1, got {validation}"
            )
        self.spec = dataset_spec(name)
        self._root = Path(root).expanduser()
        self._download = download
        self._batch_size = batch_size
        self._seed = seed
        self._ready = False
        self._validation = validation
        self.tested_on = "validation" if validation else "test"
        if resolution is not None and resolution != self.spec.resolution:
            if is_in_memory(name):
                raise InputError(
                    f"{name} has {self.spec.resolution} px images; leave data.resolution unset"
                )
            if resolution < 1:
                raise InputError(f"data.resolution must be positive, got {resolution}")
            self.spec = self.spec._replace(resolution=resolution)

    def prepare_data(self) -> None:
        """Download the data set if asked to; runs in one process only."""
        if self._download and is_in_memory(self.spec.name):
            download_pixels(self.spec.name, self._root)

    def setup(self, stage: str | None = None) -> None:
        """Open both splits; a second call does nothing.

        Raises:
            InputError: If the data set is missing or damaged.
        """
        if self._ready:
            return
        if is_in_memory(self.spec.name):
            train, test, max_value = load_pixels(self.spec, self._root)
            self.train = TensorTable(train, self.spec, max_value=max_value)
            self.test = TensorTable(test, self.spec, max_value=max_value)
        else:
            splits = scan_folders(self.spec, self._root)
            names = self.spec.class_names or splits.class_folders
            self.spec = self.spec._replace(num_classes=len(names), class_names=tuple(names))
            self.train = FolderTable(*splits.train, self.spec)
            self.test = FolderTable(*splits.test, self.spec)
        if self._validation:
            held = held_out(self.train, share=self._validation)
            self.test = self.train.select(held.nonzero().flatten())
            self.train = self.train.select((~held).nonzero().flatten())
        self._ready = True

    @property
    def provenance(self) -> dict[str, str]:
        """What a result must say about its images; nothing where they are the test images."""
        return {"tested_on": self.tested_on} if self._validation else {}

    def train_dataloader(self) -> TableLoader:
        """Return shuffled batches of normalised training images and labels."""
        return TableLoader(self.train, batch_size=self._batch_size, seed=self._seed)

    def test_dataloader(self) -> TableLoader:
        """Return batches of normalised test images and labels, in table order."""
        return TableLoader(self.test, batch_size=self._batch_size)


def held_out(table: ImageTable, *, share: float, key: str = "data.validation") -> Tensor:
    """Mark the images of every class that are kept from training to choose settings on.

    The images of a class are put in an order keyed by the data set's name alone, never by the
    seed of a run; the first ``share`` of them, rounded half up and at least one, are held out.
    So a larger share holds out all that a smaller one does.

    Args:
        table: All training images.
        share: Share of every class, in (0, 1).
        key: Setting that says it, for readers.

    Returns:
        ``(N,)`` booleans on the CPU.

    Raises:
        InputError: If nothing of a class would remain.
    """
    counts, labels = table.class_counts, table.labels.cpu()
    wanted = (counts * share + 0.5).floor().clamp(min=1).to(torch.int64)
    if bool((wanted >= counts).any()):
        index = int((counts - wanted).argmin())
        raise InputError(
            f"{key}={share:g} leaves nothing to train on of class "
            f"'{table.spec.class_names[index]}' of {table.spec.name}, which has "
            f"{int(counts[index])} training images; use a smaller share"
        )
    keys = torch.rand(len(table), generator=keyed_generator(0, "validation", table.spec.name))
    shuffled = keys.argsort()
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.arange(len(table)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    marks = torch.zeros(len(table), dtype=torch.bool)
    marks[by_class[rank < wanted.repeat_interleave(counts)]] = True
    return marks
