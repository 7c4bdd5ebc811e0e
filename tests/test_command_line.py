"""What a command says before its work, what it imports for that, and with which code it ends."""

import subprocess
import sys

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from geodm_lightning.command_line import CONFIGS, explain_mistakes, groups, help_text, options_of
from geodm_lightning.types import InputError
from tests.experiment import compose_config
from tests.native_set import make_set

HEAVY = "torch lightning numpy scipy sklearn matplotlib wandb optuna diffusers timm PIL rich"
LISTED = """
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as ending:
    assert not ending.code, ending.code
print("heavy:", *(name for name in {heavy!r}.split() if name in sys.modules))
"""


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run.py", "--help"], "chosen by GROUP=OPTION"),
        (["run.py", "--cfg", "job"], "ipc: 10"),
        (["run.py", "--list"], "cifar10_ipc10 "),
        (["evaluate.py", "--help"], "distilled=PATH"),
        (["evaluate.py", "distilled=SET", "--cfg", "job"], "kind: imported"),
        (["diagnose.py", "--help", "data=cifar10"], "name: cifar10"),
        (["table.py", "--help"], "table=NAME"),
        (["table.py", "table=cost", "--cfg", "job"], "table:"),
        (["sweep.py", "--help"], "NAME.sqlite"),
        (["compare.py", "--help"], "RESULTS.json"),
        (["convert.py", "--help"], "SOURCE TARGET to=FORMAT"),
    ],
)
def test_nothing_heavy_is_imported_before_the_work(arguments, said, tmp_path):
    """Torch and Lightning alone take seconds, and a question should not."""
    script, *rest = arguments
    if "distilled=SET" in rest:
        rest[0] = f"distilled={make_set(tmp_path / 'set')}"
    command = [str(CONFIGS.parent / "experiments" / script), *rest]
    code = LISTED.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("arguments", [["run.py", "--list"], ["convert.py", "--help"]])
def test_a_reader_may_leave_before_the_end(arguments):
    script, *rest = arguments
    command = [sys.executable, str(CONFIGS.parent / "experiments" / script), *rest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_tells_the_settings_that_arguments_make():
    text = help_text("Usage: ``run.py``", "config", ["ipc=3", "data=cifar10"])
    told = text.split("changed by KEY=VALUE:")[1].rsplit("\n\n", 1)[0]
    composed = OmegaConf.to_container(compose_config("ipc=3", "data=cifar10"))
    assert yaml.safe_load(told) == composed
    assert text.startswith("Usage: run.py\n")


def test_help_names_all_groups_and_options_that_hydra_finds():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = {name: loader.get_group_options(name) for name in loader.list_groups("")}
    del found["hydra"]
    assert {group: options_of(group) for group in groups()} == found
