"""Checks of the resolved configuration, before any work is done."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import torch

from geodm_lightning.audit.options import check_options
from geodm_lightning.types import InputError

STAGES = ("distill", "relabel", "evaluate", "audit", "score", "report")
BASELINES = ("random", "mosaic", "herding", "base", "control", "whole")


class Rule(NamedTuple):
    """What a number may be.

    Attributes:
        kind: ``int`` or ``float``.
        low: Smallest value.
        low_allowed: Whether ``low`` itself is allowed.
        also: What else is allowed, such as null.
    """

    kind: type
    low: float
    low_allowed: bool = True
    also: tuple[str | None, ...] = ()

    def broken_by(self, value: Any) -> bool:
        """Whether ``value`` is not allowed."""
        if value in self.also:
            return False
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        if self.kind is int and not isinstance(value, int):
            return True
        below = value < self.low or (value == self.low and not self.low_allowed)
        return below or not math.isfinite(value)

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        bound = f"of at least {self.low:g}" if self.low_allowed else f"above {self.low:g}"
        also = "".join(f" or {'null' if word is None else word}" for word in self.also)
        return f"{noun} {bound}{also}"


COUNT = Rule(int, 1)
OPTIONAL_COUNT = Rule(int, 1, also=(None,))
POSITIVE = Rule(float, 0, low_allowed=False)
NOT_NEGATIVE = Rule(float, 0)

NUMBERS = {
    "ipc": COUNT,
    "seed": Rule(int, 0),
    "num_seeds": COUNT,
    "data.resolution": OPTIONAL_COUNT,
    "transport.epsilon": POSITIVE,
    "transport.num_iters": COUNT,
    "transport.max_real": COUNT,
    "transport.num_slices": COUNT,
    "matching.transport_weight": NOT_NEGATIVE,
    "matching.curvature_weight": NOT_NEGATIVE,
    "matching.entropy_weight": NOT_NEGATIVE,
    "matching.history.weight": NOT_NEGATIVE,
    "matching.history.decay": NOT_NEGATIVE,
    "matching.history.start_share": NOT_NEGATIVE,
    "matching.sampler.optimizer.lr": POSITIVE,
    "distiller.num_iterations": COUNT,
    "distiller.published_iterations": OPTIONAL_COUNT,
    "distiller.real_batch": COUNT,
    "distiller.factor": COUNT,
    "distiller.classes_per_step": COUNT,
    "distiller.log_every": COUNT,
    "distiller.checkpoint_every": COUNT,
    "distiller.calibration_weight": NOT_NEGATIVE,
    "distiller.image_optimizer.lr": POSITIVE,
    "distiller.geometry_optimizer.lr": POSITIVE,
    "pool.hold": COUNT,
    "pool.count": COUNT,
    "pool.epochs": COUNT,
    "pool.herding_epochs": COUNT,
    "generator.num_steps": COUNT,
    "generator.guidance_scale": NOT_NEGATIVE,
    "generator.guided_channels": OPTIONAL_COUNT,
    "generator.batch_size": COUNT,
    "generator.num_real": COUNT,
    "guidance.transport.scale": NOT_NEGATIVE,
    "guidance.transport.epsilon": POSITIVE,
    "guidance.transport.num_iters": COUNT,
    "guidance.deviation.scale": NOT_NEGATIVE,
    "guidance.influence.scale": NOT_NEGATIVE,
    "guidance.influence.num_real": COUNT,
    "teachers.top_k": COUNT,
    "teachers.batch_size": COUNT,
    "evaluation.num_students": COUNT,
    "evaluation.together": Rule(int, 1, also=("auto",)),
    "schedule.max_iterations": OPTIONAL_COUNT,
    "schedule.max_real_batch": OPTIONAL_COUNT,
    "schedule.max_student_epochs": OPTIONAL_COUNT,
    "schedule.max_networks": OPTIONAL_COUNT,
    "schedule.max_pretrain_steps": OPTIONAL_COUNT,
    "schedule.max_teacher_steps": OPTIONAL_COUNT,
    "schedule.max_generator_steps": OPTIONAL_COUNT,
    "schedule.max_whole_steps": OPTIONAL_COUNT,
    "schedule.max_students": OPTIONAL_COUNT,
    "trainer.devices": COUNT,
    "trainer.threads": OPTIONAL_COUNT,
}
IMPORTED = {"ipc": OPTIONAL_COUNT, "distiller.factor": OPTIONAL_COUNT}  # null: as the set says
CHOICES = {
    "gates": ("refuse", "warn"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "bf16-emulated"),
    "trainer.compile": (False, True),
    "trainer.graphs": (False, True),
    "trainer.channels_last": (False, True),
    "logger.kind": ("csv", "wandb"),
    "pool.kind": ("random", "trained"),
    "generator.sampler": ("ddpm", "ddim"),
    "guidance.transport.through": ("latent", "clean"),
    "guidance.transport.ground": ("l1", "product"),
    "teachers.labels": ("store", "online"),
    "teachers.kind": ("fp16", "int8", "topk"),
}


def check_settings(settings: dict[str, Any]) -> None:
    """Check every value that can be judged without data or a device.

    Args:
        settings: Resolved configuration as plain containers.

    Raises:
        InputError: Naming the first value that cannot be used, and what could.
    """
    imported = IMPORTED if settings["distiller"].get("kind") == "imported" else {}
    for key, rule in {**NUMBERS, **imported}.items():
        found, value = _look_up(settings, key)
        if found and rule.broken_by(value):
            raise InputError(f"{key} must be {rule}, got {value!r}")
    for key, known in CHOICES.items():
        found, value = _look_up(settings, key)
        if found and value not in known:
            raise InputError(f"unknown {key} {value!r}; choose one of {', '.join(map(str, known))}")
    for key, names in (("stages", STAGES), ("baselines", BASELINES)):
        unknown = [item for item in settings[key] if item not in names]
        if unknown:
            raise InputError(
                f"unknown entry {unknown[0]!r} in {key}; choose among {', '.join(names)}"
            )
    _check_parts(settings)
    check_options(settings)
    name = str(settings["name"])
    if not name or name in (".", "..") or os.sep in name:
        raise InputError(f"name must be usable as a folder name, got {name!r}")


def _check_parts(settings: dict[str, Any]) -> None:
    """Check that what asks for a diffusion model or for teachers has them."""
    kind = settings["distiller"].get("kind")
    if kind == "imported" and not settings["distiller"]["path"]:
        raise InputError(
            "distiller=imported names no set; use experiments/evaluate.py distilled=PATH"
        )
    if kind == "guided_diffusion" and settings["generator"]["transformer"] is None:
        raise InputError(
            "distiller=guided_diffusion samples from a diffusion model, but there is none; choose "
            "one with generator=NAME"
        )
    if not settings["supervision"]:
        raise InputError("supervision is empty; name what students learn from, supervision=hard")
    for name, supervision in settings["supervision"].items():
        asked = supervision.get("teachers")
        if asked == "own" and kind != "imported":
            raise InputError(
                f"supervision {name!r} asks for labels that came with a set, but those of this run "
                "are made here; use experiments/evaluate.py, or supervision=hard"
            )
        if asked not in (None, "own") and not settings["teachers"]["pool"]:
            raise InputError(
                f"supervision {name!r} needs teachers, but there are none; choose some with "
                "teachers=NAME, or supervision=hard"
            )


def _look_up(settings: dict[str, Any], key: str) -> tuple[bool, Any]:
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def choose_accelerator(trainer: dict[str, Any]) -> str:
    """Return ``"cuda"`` or ``"cpu"`` and check that there are devices enough.

    Args:
        trainer: The ``trainer`` settings: ``accelerator`` and ``devices``.

    Raises:
        InputError: If a GPU is asked for where there is none, or more devices than there are.
    """
    gpus = torch.cuda.device_count()
    wants_gpu = trainer["accelerator"] == "gpu" or (trainer["accelerator"] == "auto" and gpus)
    if wants_gpu and gpus == 0:
        raise InputError(
            "trainer.accelerator=gpu, but no GPU is visible; use trainer.accelerator=cpu"
        )
    available = gpus if wants_gpu else os.cpu_count() or 1
    if trainer["devices"] > available:
        noun = "GPUs are" if wants_gpu else "processor cores are"
        raise InputError(
            f"trainer.devices={trainer['devices']}, but {available} {noun} there; "
            f"use trainer.devices={available} or fewer"
        )
    return "cuda" if wants_gpu else "cpu"


def shortened(settings: dict[str, Any]) -> dict[str, Any]:
    """Apply the caps of a dry run: two steps of each stage, in a folder of its own.

    Args:
        settings: Resolved configuration.

    Returns:
        The configuration to run; the same object where ``dry_run`` is false.
    """
    if not settings["dry_run"]:
        return settings
    schedule = {
        "name": "dry_run",
        "max_iterations": 2,
        "max_real_batch": 8,
        "max_student_epochs": 2,
        "max_networks": 2,
        "max_pretrain_steps": 2,
        "max_teacher_steps": 2,
        "max_generator_steps": 2,
        "max_whole_steps": 2,
        "max_students": 1,
    }
    generator = settings["generator"]
    if generator["transformer"] is not None:
        generator = {**generator, "num_steps": 2, "num_real": min(8, generator["num_real"])}
    name = f"{settings['name']}_dry_run"
    return {**settings, "name": name, "schedule": schedule, "generator": generator}
