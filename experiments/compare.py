"""Compare two rows: ``python experiments/compare.py RESULTS.json ROW [RESULTS.json] ROW``."""

import sys
from pathlib import Path

from geodm_lightning.command_line import explain_mistakes, show
from geodm_lightning.types import InputError

USAGE = (
    "usage: python experiments/compare.py RESULTS.json ROW ROW, or RESULTS.json ROW RESULTS.json "
    "ROW; a row is METHOD[/SUPERVISION][@ARCHITECTURE], a folder stands for its results.json"
)


def main(arguments: list[str]) -> None:
    """Print how two rows of one file or of two compare, and by what test."""
    if arguments in (["-h"], ["--help"]):
        show(USAGE)
        return
    if len(arguments) not in (3, 4):
        raise InputError(USAGE)
    from geodm_lightning.evaluation.comparison import compare, describe  # heavy
    from geodm_lightning.evaluation.result import load_results

    file, row, *others = arguments
    rows = []
    for path, key in ((file, row), (others[0] if len(others) == 2 else file, others[-1])):
        place = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
        results = {result.key: result for result in load_results(place)}
        if key not in results:
            raise InputError(f"no row '{key}' in {place}; choose one of {', '.join(results)}")
        rows.append(results[key])
    first, second = rows
    lines = describe(compare(first, second))
    print("\n".join([f"{first.full_label} minus {second.full_label}", *lines]))


if __name__ == "__main__":
    with explain_mistakes():
        main(sys.argv[1:])
