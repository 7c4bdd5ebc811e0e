"""With which code a command ends."""

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from geodm_lightning.command_line import explain_mistakes
from geodm_lightning.types import InputError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("ipc must be\npositive"), 2, "error: ipc must be positive"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on"),
        (SIGTERMException(), 143, "stopped; the same command goes on"),
        (SystemExit(7), 7, ""),
        (SystemExit(0), 0, ""),
    ],
)
def test_only_a_finished_run_ends_well(error, code, said, capsys):
    """Lightning answers SIGTERM, as of a scheduler, by an exit that says nothing of its cause."""
    with pytest.raises(SystemExit) as ending, explain_mistakes():
        raise error
    assert ending.value.code == code
    assert capsys.readouterr().err.startswith(said)
