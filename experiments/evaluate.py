"""Judge sets made elsewhere: ``python experiments/evaluate.py distilled=PATH [key=value …]``."""

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import sys

import hydra
from omegaconf import DictConfig

from geodm_lightning.command_line import explain_mistakes, job_command, run_command
from geodm_lightning.stages.arguments import overrides_of


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> float | None:
    """Import, evaluate and report the sets of one configuration; return the first's accuracy."""
    from geodm_lightning.pipeline import run  # heavy imports only once the configuration stands

    with explain_mistakes():
        if config.estimate:
            from geodm_lightning.estimates.page import print_estimate

            print_estimate(config)
            return None
        return run(config, command=job_command())


if __name__ == "__main__":
    with explain_mistakes():
        sys.argv[1:] = overrides_of(sys.argv[1:])
    run_command(main, usage=__doc__)
