"""Convert a distilled set: ``python experiments/convert.py SOURCE [TARGET to=FORMAT] …``."""

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import sys
from pathlib import Path
from typing import Any

from geodm_lightning.command_line import explain_mistakes, show
from geodm_lightning.types import InputError

HELP = """Convert a distilled set from one format to another, or look at one.

  python experiments/convert.py SOURCE                              inspects it
  python experiments/convert.py SOURCE TARGET to=FORMAT [key=value …]

  to=FORMAT       of TARGET: native, dc, idc, idm, mtt, datm, images, fkd, hf, ddranking
  from=FORMAT     of SOURCE; inferred by its structure
  data=NAME       data set SOURCE was made from; a native set names its own
  resolution=N    pixels, where it is not the data set's usual
  space=SPACE     of SOURCE's pixels: unit, normalised, zca, uint8
  mean=M,M,M std=S,S,S   constants they were normalised by, where not the usual ones
  factor=N        tiles per side of a mosaic, 1 for whole images
  labels=KIND     classes, logits, probabilities
  order=A,B,…     class names, or class folders, in the order of SOURCE's labels
  zca=FILE        mean and matrix of SOURCE's whitening, to undo it
  whiten=FILE     mean and matrix to whiten TARGET by (mtt, datm)
  experiment=N    which of several sets in a file of DC; the last
  views=FOLDER    FKD labels of SOURCE; for to=fkd given views or a run's label store
  fkd_seed=N      of the sampler FKD labels are ordered by; 42
  results=FILE    results.json of a run, for the card of to=hf
  overwrite=true  replace TARGET

What is inferred is printed as a warning. Nothing in a file is run: a pickle that asks for more
than tensors is refused."""

WHOLE = ("factor", "experiment", "fkd_seed", "resolution")
LISTS = ("order", "mean", "std")
FILES = ("zca", "whiten", "views", "results")
TEXTS = ("to", "from", "data", "space", "labels", "overwrite")


def main(arguments: list[str]) -> None:
    """Inspect or convert."""
    if not arguments or {"-h", "--help"} & set(arguments):
        show(HELP)
        return
    paths = [Path(text).expanduser() for text in arguments if "=" not in text]
    options = _options([text for text in arguments if "=" in text])
    if len(paths) == 1 and "to" not in options:
        inspect(paths[0], options)
    elif len(paths) == 2 and "to" in options:
        convert(*paths, options)
    else:
        raise InputError(
            "usage: python experiments/convert.py SOURCE [TARGET to=FORMAT]; see --help"
        )


def inspect(source: Path, options: dict[str, Any]) -> None:
    """Print what is in a file or folder, and what it would be read as."""
    from geodm_lightning.exchange.inspection import inspect_set

    spec = _spec(options) if "data" in options else None
    for line in inspect_set(source, spec=spec, declared=_declaration(options)):
        print(line)


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Read one format, write another."""
    from geodm_lightning.exchange.conversion import convert_set

    overwrite = options.get("overwrite", "false")
    if overwrite not in ("true", "false"):
        raise InputError(f"overwrite={overwrite} is neither true nor false")
    warnings = convert_set(
        source,
        target,
        to=options["to"],
        spec=_spec(options) if "data" in options else None,
        declared=_declaration(options),
        overwrite=overwrite == "true",
        whiten=options.get("whiten"),
        views=options.get("views"),
        results=_results(options.get("results")),
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(target)


def _options(texts: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in (*WHOLE, *LISTS, *FILES, *TEXTS):
            raise InputError(
                f"unknown option {key}=; choose among "
                f"{', '.join(f'{name}=' for name in (*TEXTS, *WHOLE, *LISTS, *FILES))}"
            )
        try:
            options[key] = _value(key, value)
        except ValueError as error:
            raise InputError(f"{text} is no number; see --help") from error
    return options


def _value(key: str, value: str) -> Any:
    if key in WHOLE:
        return int(value)
    if key in ("mean", "std"):
        return tuple(float(part) for part in value.split(","))
    if key == "order":
        return tuple(part.strip() for part in value.split(","))
    return Path(value).expanduser() if key in FILES else value


def _spec(options: dict[str, Any]) -> Any:
    from geodm_lightning.data.catalog import dataset_spec

    spec = dataset_spec(options["data"])
    return spec._replace(resolution=options.get("resolution", spec.resolution))


def _declaration(options: dict[str, Any]) -> Any:
    from geodm_lightning.exchange.declaration import Declaration

    known = ("space", "factor", "labels", "order", "zca", "experiment", "mean", "std")
    values = {key: options[key] for key in known if key in options}
    views = options.get("views") if options.get("to") != "fkd" else None
    seed = options.get("fkd_seed", Declaration().seed)
    return Declaration(format=options.get("from"), views=views, seed=seed, **values)


def _results(path: Path | None) -> str:
    if path is None:
        return ""
    from geodm_lightning.evaluation.result import load_results
    from geodm_lightning.reporting.tables import build_table, to_markdown

    return to_markdown(build_table(load_results(path)))


if __name__ == "__main__":
    with explain_mistakes():
        main(sys.argv[1:])
