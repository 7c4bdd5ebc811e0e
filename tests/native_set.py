"""A native set of real digits, as another run would have left it."""

import torch

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import save_set


def make_set(folder, *, seed=0, label="DM", method="dm", ipc=2, soft=False, **manifest):
    """Write a native set of real digits and return its folder."""
    data = RealDataModule("digits")
    data.setup()
    generator = torch.Generator().manual_seed(seed)
    images = data.train.gather(data.train.draw(ipc, generator=generator).flatten())
    known = {"method": method, "label": label, "ipc": ipc, "factor": 1, "seed": seed, **manifest}
    known["dataset"] = data.spec._asdict()
    labels = class_major_labels(10, ipc)
    logits = torch.randn(len(labels), 10, generator=generator) + 9 * torch.eye(10)[labels]
    save_set(folder, DistilledSet(images, labels, known, logits if soft else None))
    return folder
