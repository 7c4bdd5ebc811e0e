"""Compare methods over seeds: ``python experiments/compare.py RESULTS.json geodm dm``."""

import sys
from pathlib import Path

from geodm_lightning.command_line import explain_mistakes
from geodm_lightning.evaluation.comparison import compare
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.types import InputError


def main(arguments: list[str]) -> None:
    """Print the paired comparison of two rows, ``METHOD`` or ``METHOD/SUPERVISION``, of a file."""
    if len(arguments) != 3:
        raise InputError("usage: python experiments/compare.py RESULTS.json METHOD METHOD")
    results = {result.key: result for result in load_results(Path(arguments[0]))}
    for name in arguments[1:]:
        if name not in results:
            raise InputError(f"no row '{name}' there; choose two of {', '.join(results)}")
    first, second = (results[name] for name in arguments[1:])
    comparison = compare(first, second)
    by_seed = ", ".join(f"{100 * d:+.1f}" for d in comparison.differences.values())
    print(
        f"{first.full_label} minus {second.full_label}, points by seed: {by_seed}; "
        f"mean {100 * comparison.mean:+.1f}; paired t-test t = {comparison.t:.2f}, "
        f"p = {comparison.p:.3f} (two-sided, {len(first.seeds)} seeds)"
    )


if __name__ == "__main__":
    with explain_mistakes():
        main(sys.argv[1:])
