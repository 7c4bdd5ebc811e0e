"""One cell against its published value: run it, print the difference, say whether it holds."""

from __future__ import annotations

from geodm_lightning.reporting.notes import share
from geodm_lightning.tables.plan import Plan
from geodm_lightning.tables.published import judge, tolerance_of, verdict_line
from geodm_lightning.tables.running import CONSOLE, FAILED, run_missing, tell_failures
from geodm_lightning.tables.study import measured

OUTSIDE = 1


def reproduce(plan: Plan) -> int:
    """Run the cell that was asked for and judge it against its published value.

    Returns:
        Exit code: 0 within the tolerance, 1 outside of it or where the run failed.

    Raises:
        InputError: If there is no such cell, nothing is published for it, or it does not tell
            what its column measures; raised before anything is run where it can be seen.
    """
    cell = plan.table.cell(plan.options["reproduce"])
    tolerance, rule = tolerance_of(cell, plan.table, asked=plan.options["tolerance"])
    (run,) = plan.runs
    if plan.options["run"] and tell_failures(run_missing(plan)):
        return FAILED
    state = plan.state_of(run, strict=plan.options["run"])
    result = state.results.get(cell.result)
    ours = None if result is None else measured(result, cell.column.measure)
    if ours is None or cell.published is None:
        CONSOLE.print(f"{cell.key}: nothing measured in {state.folder}; {state.reason}")
        return FAILED
    verdict = judge(ours, cell.published.value, tolerance=tolerance, rule=rule)
    CONSOLE.print(verdict_line(cell, ours, verdict))
    iterations = "" if ours.iterations is None else f"{share(ours.iterations)} of its iterations, "
    CONSOLE.print(
        f"source: {cell.published.source}"
        f"{f' ({cell.published.note})' if cell.published.note else ''}; schedule: {iterations}"
        f"{share(ours.epochs)} of the epochs of protocol {ours.protocol} ({ours.digest})"
    )
    word = "within" if verdict.is_reproduced else "outside"
    CONSOLE.print(f"{word} the tolerance of {verdict.tolerance:g} ({verdict.rule})")
    return 0 if verdict.is_reproduced else OUTSIDE
