"""Distil, evaluate, report: ``python experiments/run.py [+experiment=NAME] [key=value …]``.

``-m hydra/sweeper=optuna hydra.sweeper.space=sweeps/NAME.yaml`` runs a sweep of it.
"""

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

from pathlib import Path

import hydra
from omegaconf import DictConfig

from geodm_lightning.command_line import (
    explain_mistakes,
    job_command,
    register_resolvers,
    run_command,
)
from geodm_lightning.sweeps.locks import undisturbed
from geodm_lightning.sweeps.sweeper import register_sweeper


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run the stages of one configuration and return the accuracy of its own method."""
    from geodm_lightning.pipeline import run  # heavy imports only once the configuration stands

    register_resolvers()  # once more, as a launcher may have put this job in a process of its own
    with explain_mistakes():
        if config.estimate:
            from geodm_lightning.estimates.page import print_estimate

            print_estimate(config)
            return None
        with undisturbed(Path(config.run_dir), f"{config.name}-{config.seed}"):
            return run(config, command=job_command())


if __name__ == "__main__":
    register_sweeper()
    run_command(main, usage=__doc__)
