"""A Hydra application whose accuracy is a known function of the two curvatures.

It is ``experiments/run.py`` with a run of no length: every run is counted in ``RUN_DIR/log.txt``,
its process and GPUs in ``RUN_DIR/devices.txt``.
"""

import math
import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from geodm_lightning.command_line import CONFIGS, explain_mistakes, run_command
from geodm_lightning.processes import die_with_parent
from geodm_lightning.sweeps.locks import undisturbed
from geodm_lightning.sweeps.sweeper import register_sweeper
from geodm_lightning.types import InputError


def accuracy(hyperbolic: float, spherical: float) -> float:
    """Return a hill of height 0.9 over curvatures 0.5 and 2."""
    return 0.9 - 0.1 * (math.log(hyperbolic / 0.5) ** 2 + 0.2 * math.log(spherical / 2.0) ** 2)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(config: DictConfig) -> float:
    """Return the accuracy; ``schedule.name`` says how runs fail, ``ipc`` how long one takes."""
    die_with_parent()
    with explain_mistakes(), undisturbed(Path(config.run_dir), f"{config.name}-{config.seed}"):
        curvature, failure = config.geometry.curvature, config.schedule.name
        with (Path(config.run_dir) / "log.txt").open("a") as log:
            log.write(f"{config.name}\n")
        with (Path(config.run_dir) / "devices.txt").open("a") as told:
            told.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}\n")
        time.sleep(0.01 * (config.ipc - 1))
        if failure == "refused" and curvature.hyperbolic > 1:
            raise InputError(f"no curvature {curvature.hyperbolic}, use 1 or less")
        if failure == "diverged" and curvature.hyperbolic > 1:
            return math.nan
        if failure == "broken" and curvature.hyperbolic != 1:
            raise RuntimeError("out of order")
        return accuracy(curvature.hyperbolic, curvature.spherical)


if __name__ == "__main__":
    register_sweeper()
    run_command(main, usage=__doc__)
