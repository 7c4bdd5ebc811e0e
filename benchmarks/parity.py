"""How far runs that should be one and the same differ: killed, shared among processes, or neither.

    python benchmarks/parity.py runs/one/0 runs/killed/0 runs/two/0

Compares the sets of every row pixel by pixel and the accuracies of every student.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from geodm_lightning.distilled.manifest import MANIFEST
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.run_folder import RunFolder


def sets_of(run: Path) -> dict[str, Path]:
    """Return the folders of a run's sets by their place in it."""
    return {
        str(path.parent.relative_to(run)): path.parent
        for path in run.rglob(MANIFEST)
        if path.parent.name == "distilled" or path.parent.parent.name == "baselines"
    }


def compare(first: Path, second: Path) -> list[str]:
    """Return one line per set and one for the accuracies of two runs."""
    pair = f"{first.parent.name} and {second.parent.name}"
    lines, others = [], sets_of(second)
    for name, folder in sorted(sets_of(first).items()):
        ours, theirs = (load_set(each).unit_images() for each in (folder, others[name]))
        gap = (ours - theirs).abs()
        differing = int((gap > 0).sum())
        lines.append(
            f"{pair}, {name}: {differing} of {gap.numel()} numbers differ, "
            f"by {255 * gap.max().item():.0f} of 255 at most"
        )
    results = [load_results(RunFolder(run).results) for run in (first, second)]
    gaps = [
        abs(a - b)
        for ours, theirs in zip(*results, strict=True)
        for a, b in zip(ours.accuracies, theirs.accuracies, strict=True)
    ]
    same = sum(gap == 0 for gap in gaps)
    largest = 100 * max(gaps)
    return [*lines, f"{pair}: {same} of {len(gaps)} students alike, others by {largest:.1f} points"]


def main() -> None:
    """Compare every pair of the runs named on the command line."""
    for first, second in itertools.combinations(map(Path, sys.argv[1:]), 2):
        print("\n".join(compare(first, second)))


if __name__ == "__main__":
    main()
