"""What the command line says: the list of experiments, and one clear line for a mistake."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from geodm_lightning.types import InputError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
HELP = {"-h", "--help"}
EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
STOPPED = "stopped; the same command goes on from the last checkpoint"


def run_command(main: Callable[[], object], *, usage: str, config: str = "config") -> None:
    """Run a Hydra entry point and end the process with a fitting exit code.

    ``--list`` prints the experiments, ``--help`` all that can be set. A mistake in the
    configuration is printed as one line on standard error and exits with 2; any other exception
    keeps its traceback and exits with 1.

    Args:
        main: Function decorated by ``hydra.main``.
        usage: What the script is for and how it is called, in the markup of a docstring.
        config: Name of its configuration.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if "--list" in sys.argv[1:]:
        show(list_experiments())
        return
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        with explain_mistakes():
            if HELP.issuperset(flags_of(sys.argv[1:])) and not HELP.isdisjoint(sys.argv[1:]):
                overrides = [word for word in sys.argv[1:] if word not in HELP]
                show(help_text(usage, config, overrides))
            else:
                main()
    except (HydraException, OmegaConfBaseException) as error:
        _exit_with(_explain(error))


def show(text: str) -> None:
    """Print an answer; a reader such as ``head`` may leave before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end


def flags_of(arguments: Iterable[str]) -> list[str]:
    """Return the arguments that are no overrides."""
    return [word for word in arguments if word.startswith("-")]


def help_text(usage: str, config: str, overrides: Sequence[str]) -> str:
    """Say how a script is called, which options there are and what is set.

    Hydra's own help copies its whole repository for every group of options, which takes seconds.

    Args:
        usage: What the script is for and how it is called.
        config: Name of its configuration.
        overrides: Overrides of it.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = OmegaConf.to_yaml(compose(config, list(overrides)))
    return "\n\n".join(
        [
            usage.strip().replace("``", ""),
            "Options of every group, chosen by GROUP=OPTION (an experiment by +experiment=NAME):",
            "\n".join(f"  {group}: {', '.join(options_of(group))}" for group in groups()),
            "Settings, changed by KEY=VALUE:",
            settings.rstrip(),
            "--list tells the experiments, --cfg job the settings alone, --hydra-help the rest.",
        ]
    )


def groups() -> list[str]:
    """Return the names of the groups of options, Hydra's own left out."""
    return sorted(path.name for path in CONFIGS.iterdir() if any(path.glob("*.yaml")))


def options_of(group: str) -> list[str]:
    """Return the names of the options of a group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@contextmanager
def explain_mistakes() -> Iterator[None]:
    """Print a mistake of the caller as one line and exit with 2, inside a Hydra job.

    In a job of a multirun it is raised instead, as the other jobs go on. A run that is told to
    end by SIGTERM ends all, with 143.
    """
    try:
        yield
    except InputError as error:
        if is_one_of_many():
            raise
        _exit_with(str(error))
    except KeyboardInterrupt:
        if is_one_of_many():
            raise
        print(STOPPED, file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as ending:
        if ending.code is None:  # Lightning's way out when told to end by SIGTERM: no success
            print(STOPPED, file=sys.stderr)
            sys.exit(EXIT_TERMINATED)
        if is_one_of_many() and ending.code not in (0, EXIT_TERMINATED):
            raise InputError(f"a process of this run ended with code {ending.code}") from ending
        raise


def is_one_of_many() -> bool:
    """Whether this code runs inside a job of a Hydra multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def job_command() -> list[str]:
    """Return the script and the arguments that compose the configuration of this job."""
    from hydra.core.hydra_config import HydraConfig

    if not is_one_of_many():
        return list(sys.argv)
    return [sys.argv[0], *HydraConfig.get().overrides.task]


def register_resolvers() -> None:
    """Teach OmegaConf ``${times:…}``, the product of numbers, for rates that grow with ipc."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("times", lambda *factors: math.prod(factors), replace=True)


def list_experiments() -> str:
    """Return one line per experiment: its name and the first comment of its file."""
    lines = {
        path.stem: next(
            line.removeprefix("# ")
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("# ") and "@package" not in line
        )
        for path in CONFIGS.glob("experiment/*.yaml")
    }
    width = max(map(len, lines), default=0)
    rows = sorted(lines, key=lambda name: [int(s) if s.isdigit() else s for s in _pieces(name)])
    return "\n".join(f"{name:<{width}}  {lines[name]}" for name in rows)


def _pieces(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _exit_with(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(EXIT_INPUT_ERROR)


def _explain(error: Exception) -> str:
    """Turn an error of the configuration into one line with the valid choices."""
    text = str(error)
    missing = re.search(r"[Cc]ould not find '([^']+)'", text)
    if missing:
        group, _, option = missing.group(1).rpartition("/")
        if group and (options := options_of(group)):
            return f"unknown {group} '{option}'; choose one of {', '.join(options)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("full_key", "object_type", "reference"))
    )
