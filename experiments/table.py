"""A paper's table by one command: ``python experiments/table.py table=NAME [key=value …]``."""

import sys

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import hydra
from omegaconf import DictConfig

from geodm_lightning.command_line import explain_mistakes, run_command


@hydra.main(version_base="1.3", config_path="../configs", config_name="table")
def main(config: DictConfig) -> None:
    """Run what is missing of one table and write it; exits with 1 where a run failed."""
    from geodm_lightning.tables.table import make_table  # heavy imports only now

    with explain_mistakes():
        code = make_table(config)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv) and not any(a.startswith("table=") for a in sys.argv):
        sys.argv.append("table=geodm_main")  # help shows the settings of some table
    run_command(main, usage=__doc__, config="table")
