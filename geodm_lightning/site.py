"""Where this process computes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning import Trainer

from geodm_lightning.heap import set_up_heap
from geodm_lightning.processes import Processes, own_device, say_once

# Lightning greets every trainer with hardware, tips and the reason it stopped.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# Lightning 2.6 asks torch 2.15 for a class that torch is about to rename; nothing of ours.
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


Precision = Literal["32-true", "bf16-mixed"]
Asked = Literal["auto", "32-true", "bf16-mixed", "bf16-emulated"]
LEFT_TO_HARDWARE = ("auto", "bf16-mixed")  # values of trainer.precision
# Of processors that multiply in bfloat16: Intel's matrix tiles and vectors, AMD's, Arm's.
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}


class Site(NamedTuple):
    """The device of this process and its place among the processes of the run.

    Every process drives one device with a Lightning trainer of its own; what must be
    added up or gathered goes through :class:`Processes`.

    Attributes:
        device: Device of this process.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
        processes: Place among the processes.
        compiles: Whether networks are translated by ``torch.compile``.
        replays: Whether matching losses are recorded as CUDA graphs.
        channels_last: Whether the channels of networks' weights, and so of their maps, lie together
            in memory.
    """

    device: torch.device
    precision: Precision = "32-true"
    processes: Processes = Processes()
    compiles: bool = False
    replays: bool = False
    channels_last: bool = False

    @property
    def identity(self) -> dict[str, str]:
        """What of this place decides the weights of networks that are trained on it.

        Nothing in float32, so that what was trained before precisions were told apart is known.
        """
        return {} if self.precision == "32-true" else {"precision": self.precision}

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
    accelerator: str,
    *,
    precision: Asked,
    threads: int | None,
    processes: Processes,
    compiles: bool = False,
    replays: bool = False,
    channels_last: bool = False,
) -> Site:
    """Prepare this process for computing.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        precision: See :func:`settled_precision`; where the device cannot do it, that is said.
        threads: CPU threads of this process; null leaves them as they are.
        processes: Place among the processes of the run.
        compiles: Whether networks are translated by ``torch.compile``.
        replays: Whether matching losses are recorded as CUDA graphs.
        channels_last: Whether networks keep channels together on a GPU; on a CPU the layers choose.
    """
    set_up_heap()
    if threads is not None:
        torch.set_num_threads(threads)
    device = own_device(accelerator)
    used = settled_precision(precision, device)
    if precision == "bf16-mixed" and used != precision:
        say_once(
            f"trainer.precision=bf16-mixed, but {device.type} here does not multiply in bfloat16, "
            "so this run is in float32; bf16-emulated computes it anyway, slowly"
        )
    if channels_last and device.type != "cuda":
        say_once(f"trainer.channels_last=true, but on {device.type} layers choose their own layout")
        channels_last = False
    return Site(device, used, processes, compiles, replays, channels_last)


def settled_precision(asked: Asked, device: torch.device) -> Precision:
    """Return the precision that a device computes in, where one was asked for.

    Args:
        asked: ``"auto"`` and ``"bf16-mixed"`` are bfloat16 where the hardware multiplies in it and
            float32 elsewhere; ``"bf16-emulated"`` is bfloat16 everywhere.
        device: The device.
    """
    if asked in LEFT_TO_HARDWARE:
        return "bf16-mixed" if multiplies_bf16(device) else "32-true"
    return "bf16-mixed" if asked == "bf16-emulated" else "32-true"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has arithmetic of its own for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and bool(BF16_FLAGS & flags_of(cpuinfo.read_text(encoding="utf-8")))


def flags_of(cpuinfo: str) -> set[str]:
    r"""Return what the first processor of a ``/proc/cpuinfo`` can do.

    Example:
        >>> sorted(flags_of("processor : 0\nflags\t\t: fpu avx512_bf16\n"))
        ['avx512_bf16', 'fpu']
    """
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, Arm
            return set(value.split())
    return set()
