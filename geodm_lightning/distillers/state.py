"""The state of a distillation, independent of the number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.types import InputError


def capture(distiller: MatchingDistiller) -> dict[str, Any]:
    """Return everything a resumed run needs, whole on every process.

    Images and optimiser moments are gathered over the processes, so a run may be
    resumed on any number of them.
    """
    num_classes, processes = distiller.num_classes, distiller.processes
    pixels = distiller.synthetic.pixels
    moments = {
        key: processes.gather(value, num_classes) if _is_per_pixel(distiller, value) else value
        for key, value in distiller.image_optimizer.state.get(pixels, {}).items()
    }
    geometry = distiller.geometry_optimizer
    return {
        "iteration": distiller.iteration,
        "seed": distiller.seed,
        "seconds": distiller.seconds,
        "ledger": distiller.ledger.state(),
        "pixels": processes.gather(pixels.detach(), num_classes),
        "image_optimizer": moments,
        "image_lr": distiller.image_optimizer.param_groups[0]["lr"],
        "image_scheduler": distiller.image_scheduler and distiller.image_scheduler.state_dict(),
        "matching": distiller.matching.state_dict(),
        "geometry_optimizer": None if geometry is None else geometry.state_dict(),
        "sums": {k: processes.sum_(v.clone()) for k, v in distiller.sums.items()},
        "num_summed": distiller.num_summed,
    }


def restore(distiller: MatchingDistiller, state: dict[str, Any]) -> None:
    """Take up a state made by :func:`capture`.

    Raises:
        InputError: If the state is not one of this version, or the images do not have the
            shape of this run.
    """
    missing = capture(distiller).keys() - state.keys()
    if missing:
        raise InputError(
            f"the checkpoint lacks {', '.join(sorted(missing))}, as one of an older version "
            "would; choose another run folder with name=NAME"
        )
    owned = distiller.processes.shard(distiller.num_classes)
    pixels = state["pixels"][owned]
    if pixels.shape != distiller.synthetic.pixels.shape or state["seed"] != distiller.seed:
        raise InputError(
            f"the checkpoint holds images of shape {tuple(pixels.shape)} and seed "
            f"{state['seed']}, this run {tuple(distiller.synthetic.pixels.shape)} and "
            f"{distiller.seed}; "
            "choose another run folder with name=NAME"
        )
    with torch.no_grad():
        distiller.synthetic.pixels.copy_(pixels)
    distiller.image_optimizer.state[distiller.synthetic.pixels] = {
        key: _take_own(distiller, value, owned) for key, value in state["image_optimizer"].items()
    }
    distiller.image_optimizer.param_groups[0]["lr"] = state["image_lr"]
    if distiller.image_scheduler is not None:
        distiller.image_scheduler.load_state_dict(state["image_scheduler"])
    distiller.matching.load_state_dict(state["matching"])
    if distiller.geometry_optimizer is not None:
        distiller.geometry_optimizer.load_state_dict(state["geometry_optimizer"])
    distiller.iteration, distiller.seconds = state["iteration"], state["seconds"]
    distiller.ledger.restore(state["ledger"])
    # The sums are over all processes: one process goes on with them, the others with zero.
    share = 1.0 if distiller.processes.is_main else 0.0
    distiller.sums = {
        k: (v * share).to(distiller.synthetic.pixels.device) for k, v in state["sums"].items()
    }
    distiller.num_summed = state["num_summed"]


def _is_per_pixel(distiller: MatchingDistiller, value: Any) -> bool:
    """Whether an optimiser value has one entry per owned pixel, like a momentum."""
    return isinstance(value, Tensor) and value.shape == distiller.synthetic.pixels.shape


def _take_own(distiller: MatchingDistiller, value: Any, owned: slice) -> Any:
    """Cut an optimiser value of all pixels down to this process's classes."""
    if isinstance(value, Tensor) and value.dim() == distiller.synthetic.pixels.dim():
        return value[owned].clone().to(distiller.synthetic.pixels.device)
    return value
