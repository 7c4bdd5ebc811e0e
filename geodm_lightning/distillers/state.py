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
    if distiller.image_scheduler is not None:
        distiller.image_scheduler.settle()
    pixels = distiller.synthetic.pixels
    moments = {
        key: processes.gather(value, num_classes) if _is_per_pixel(distiller, value) else value
        for key, value in distiller.image_optimizer.state.get(pixels, {}).items()
    }
    history = distiller.matching.history
    prototypes = {} if history is None else history.state()
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
        "loss_optimizers": {k: o.state_dict() for k, o in distiller.loss_optimizers.items()},
        "history": {k: processes.gather(v, num_classes) for k, v in prototypes.items()},
        "sums": distiller.terms.state(),
        "num_summed": distiller.terms.num_iterations,
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
    for name, optimizer in distiller.loss_optimizers.items():
        optimizer.load_state_dict(state["loss_optimizers"][name])
    if distiller.matching.history is not None:
        own = {key: value[owned] for key, value in state["history"].items()}
        distiller.matching.history.load_state(own)
    distiller.iteration, distiller.seconds = state["iteration"], state["seconds"]
    distiller.ledger.restore(state["ledger"])
    distiller.terms.restore(
        state["sums"], num_iterations=state["num_summed"], device=distiller.synthetic.pixels.device
    )


def _is_per_pixel(distiller: MatchingDistiller, value: Any) -> bool:
    """Whether an optimiser value has one entry per owned pixel, like a momentum."""
    return isinstance(value, Tensor) and value.shape == distiller.synthetic.pixels.shape


def _take_own(distiller: MatchingDistiller, value: Any, owned: slice) -> Any:
    """Cut an optimiser value of all pixels down to this process's classes."""
    if isinstance(value, Tensor) and value.dim() == distiller.synthetic.pixels.dim():
        return value[owned].clone().to(distiller.synthetic.pixels.device)
    return value
