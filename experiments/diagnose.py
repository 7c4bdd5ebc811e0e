"""Diagnose a data set's geometry: ``python experiments/diagnose.py [data=NAME] [key=value …]``."""

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from geodm_lightning.command_line import explain_mistakes, run_command


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Measure the data set of one configuration."""
    from geodm_lightning.stages.diagnose import diagnose_data  # heavy imports only when it stands

    values: Any = OmegaConf.to_container(config, resolve=True)
    with explain_mistakes():
        diagnose_data(values)


if __name__ == "__main__":
    run_command(main, usage=__doc__)
