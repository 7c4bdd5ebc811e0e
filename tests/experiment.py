"""A configured run small enough for a test."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from geodm_lightning.command_line import register_resolvers
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.network import Network

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FOLDERS = ("run_dir=/", "cache_dir=/")
TINY = (
    "ipc=2",
    "network.width=8",
    "distiller.num_iterations=6",
    "distiller.real_batch=8",
    "distiller.log_every=2",
    "distiller.checkpoint_every=2",
    "schedule.max_student_epochs=3",
    "schedule.max_students=2",
    "schedule.max_pretrain_steps=2",
    "schedule.max_whole_steps=2",
)

TINY_GENERATIVE = (
    "+experiment=digits_generative_ipc10",
    "trainer=small",
    "ipc=2",
    "network.width=8",
    "generator.num_steps=4",
    "generator.num_real=8",
    "generator.training.transformer.architecture.hidden=16",
    "generator.training.transformer.architecture.depth=1",
    "generator.training.transformer.architecture.heads=2",
    "generator.training.transformer.recipe.num_steps=6",
    "generator.training.transformer.recipe.batch_size=16",
    "teachers.pool=[{source: trained, name: convnet, depth: 3, width: 8}]",
    "teachers.strict=false",  # a few steps make no teacher
    "schedule.max_teacher_steps=3",
    "schedule.max_student_epochs=3",
    "schedule.max_students=2",
    "schedule.max_pretrain_steps=2",
)


def tiny_overrides(folder: Path) -> list[str]:
    """Overrides that shrink the default experiment and keep all its files in ``folder``."""
    return [*TINY, f"run_dir={folder}/runs", f"cache_dir={folder}/pools", "name=tiny"]


def generative_overrides(folder: Path) -> list[str]:
    """Overrides that shrink the generative experiment and keep all its files in ``folder``."""
    return [*TINY_GENERATIVE, f"run_dir={folder}/runs", f"cache_dir={folder}/cache", "name=tiny"]


def small_network() -> Network:
    """Return a small ConvNet for the digits, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    shape = {"num_classes": 10, "channels": 1, "resolution": 8}
    return build_network("convnet_d3", **shape, width=8, generator=generator).eval()


def compose_config(*overrides: str) -> DictConfig:
    """Compose the configuration as the command line does.

    Composing reads some thirty files, so it is done once for overrides that differ only in
    the folders they name, which are put in afterwards.
    """
    folders = [item for item in overrides if item.startswith(FOLDERS)]
    config = copy.deepcopy(_composed(*(item for item in overrides if item not in folders)))
    for key, value in (item.split("=", 1) for item in folders):
        OmegaConf.update(config, key, value)
    return config


@functools.lru_cache(maxsize=256)
def _composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def compose_settings(*overrides: str) -> dict[str, Any]:
    """Compose the configuration as plain containers."""
    settings: Any = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    return settings
