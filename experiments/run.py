"""Distil, evaluate, report: ``python experiments/run.py [+experiment=NAME] [key=value …]``."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy-waiting threads starve

import hydra
from omegaconf import DictConfig

from geodm_lightning.command_line import explain_mistakes, run_command


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Run the stages of one configuration."""
    from geodm_lightning.pipeline import run  # heavy imports only once the configuration stands

    with explain_mistakes():
        run(config)


if __name__ == "__main__":
    run_command(main)
