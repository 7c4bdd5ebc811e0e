"""Where this process computes."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal, NamedTuple

import torch
from lightning import Trainer

from geodm_lightning.heap import set_up_heap
from geodm_lightning.processes import Processes, own_device

# Lightning greets every trainer with hardware, tips and the reason it stopped.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# Lightning 2.6 asks torch 2.15 for a class that torch is about to rename; nothing of ours.
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


Precision = Literal["32-true", "bf16-mixed"]


class Site(NamedTuple):
    """The device of this process and its place among the processes of the run.

    Every process drives one device with a Lightning trainer of its own; what must be
    added up or gathered goes through :class:`Processes`.

    Attributes:
        device: Device of this process.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
        processes: Place among the processes.
    """

    device: torch.device
    precision: Precision = "32-true"
    processes: Processes = Processes()

    def trainer(self, **options: Any) -> Trainer:
        """Make a quiet single-device trainer.

        Args:
            options: Passed to ``lightning.Trainer``: ``max_steps``, ``callbacks``, ``logger`` …

        Returns:
            A trainer that neither saves checkpoints nor prints of its own accord.
        """
        defaults: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,  # modules log by themselves; this only silences a warning
        }
        is_cuda = self.device.type == "cuda"
        with warnings.catch_warnings():
            # Choosing the CPU although a GPU is there is what the user asked for.
            warnings.filterwarnings("ignore", message=".*but not used.*")
            return Trainer(
                accelerator="gpu" if is_cuda else "cpu",
                devices=[self.device.index or 0] if is_cuda else 1,
                precision=self.precision,
                **{**defaults, **options},
            )


def open_site(
    accelerator: str, *, precision: Precision, threads: int | None, processes: Processes
) -> Site:
    """Prepare this process for computing.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
        threads: CPU threads of this process; null leaves them as they are.
        processes: Place among the processes of the run.
    """
    set_up_heap()
    if threads is not None:
        torch.set_num_threads(threads)
    return Site(own_device(accelerator), precision, processes)
