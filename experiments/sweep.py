"""Run or summarise a sweep.

``python experiments/sweep.py sweeps/NAME.yaml [trials=N] [jobs=N] [repeats=N] [key=value …]``
runs what is missing of it; ``python experiments/sweep.py RUN_DIR/NAME.sqlite`` summarises it.
"""

import os
import shlex
import sys
from pathlib import Path

from geodm_lightning.command_line import explain_mistakes, show
from geodm_lightning.sweeps.command import run_arguments, summarise
from geodm_lightning.types import InputError

RUN = Path(__file__).with_name("run.py")


def main(arguments: list[str]) -> None:
    """Start ``experiments/run.py`` as a multirun, or write a summary."""
    if arguments and arguments[0].endswith(".sqlite") and len(arguments) == 1:
        print(summarise(Path(arguments[0])))
        return
    if not arguments or not arguments[0].endswith((".yaml", ".yml")):
        raise InputError(f"usage: {' '.join(__doc__.split('``')[1].split())}")
    started = [str(RUN), *run_arguments(arguments)]
    print(f"python {shlex.join(started)}", flush=True)
    os.execv(sys.executable, [sys.executable, *started])


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        show(__doc__.strip())
    else:
        with explain_mistakes():
            main(sys.argv[1:])
