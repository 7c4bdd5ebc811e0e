"""How OpenMP's threads wait for their next share of an operation."""

import os

# Rounds that a thread looks for work before it sleeps, some tens of microseconds. Sleeping at once
# makes short operations wait for the system to wake it; looking for long starves whoever needs the
# core. Measured in benchmarks/waiting.py.
SPINS = 3000


def wait_briefly() -> None:
    """Let threads that have nothing to do sleep soon, but not at once; before torch is imported.

    Variables that are set already stand: ``OMP_WAIT_POLICY``, which every OpenMP knows, and
    ``GOMP_SPINCOUNT``, which GNU's does.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
