"""Hours and memory of what is missing of a table, before it is started."""

from __future__ import annotations

from pathlib import Path

from geodm_lightning.estimates.estimate import estimate
from geodm_lightning.estimates.page import clock, lines_of, table_of
from geodm_lightning.files import write_json
from geodm_lightning.memory import gigabytes
from geodm_lightning.tables.plan import Plan
from geodm_lightning.tables.running import CONSOLE, FAILED, chosen_states, tell_failures
from geodm_lightning.tables.state import DONE, REFUSED, compose_config


def estimate_table(plan: Plan) -> int:
    """Measure a few steps of every missing run and print what the table will still cost.

    It is written, too, where ``estimate`` names a file.

    Returns:
        Exit code: 0, or 1 where a run is refused.

    Raises:
        InputError: If a run's settings cannot be used.
    """
    states = chosen_states(plan)
    found = []
    for state in states:
        if state.state not in (DONE, REFUSED):
            found.append(estimate(compose_config(plan.overrides_of(state.run))))
            CONSOLE.print(table_of(found[-1]))
            for line in lines_of(found[-1]):
                CONSOLE.print(line, markup=False)
    seconds = sum(run.seconds for run in found)
    jobs = min(plan.options["jobs"], max(1, len(found)))
    memory = max((run.memory for run in found), default=0)
    CONSOLE.print(
        f"{len(found)} runs to do: {clock(seconds)} one after another, {clock(seconds / jobs)} or "
        f"more with jobs={plan.options['jobs']}; the largest process takes {gigabytes(memory)}"
    )
    if not isinstance(wanted := plan.options["estimate"], bool):
        write_json(Path(wanted), {"table": plan.table.key, "runs": [r.to_dict() for r in found]})
    refused = [f"{s.run.name} is refused: {s.reason}" for s in states if s.state == REFUSED]
    return FAILED if tell_failures(refused) else 0
