"""From settings to objects: the one room that knows both."""

from geodm_lightning.assembly.check import check_buildable
from geodm_lightning.assembly.data import build_data, check_images_per_class
from geodm_lightning.assembly.distiller import (
    build_distiller,
    build_real_features,
    sharing_key,
)
from geodm_lightning.assembly.generator import build_generator
from geodm_lightning.assembly.guides import build_guides
from geodm_lightning.assembly.matching import build_matching
from geodm_lightning.assembly.networks import (
    build_pool,
    herding_network,
    network_builder,
    pretrain_settings,
    trained_states,
)
from geodm_lightning.assembly.options import instantiate, num_iterations, real_batch
from geodm_lightning.assembly.protocol import build_architectures, build_protocol
from geodm_lightning.assembly.teachers import (
    build_pools,
    build_supervisions,
    build_teachers,
    open_store,
    wanted_teachers,
)

__all__ = [
    "build_architectures",
    "build_data",
    "build_distiller",
    "build_generator",
    "build_guides",
    "build_matching",
    "build_pool",
    "build_pools",
    "build_protocol",
    "build_real_features",
    "build_supervisions",
    "build_teachers",
    "check_buildable",
    "check_images_per_class",
    "herding_network",
    "instantiate",
    "network_builder",
    "num_iterations",
    "open_store",
    "pretrain_settings",
    "real_batch",
    "sharing_key",
    "trained_states",
    "wanted_teachers",
]
