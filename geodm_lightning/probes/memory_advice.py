"""What to lower when memory has run out in a stage, and to what."""

from __future__ import annotations

from collections.abc import Sequence

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.memory import is_out_of_memory, room_on
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone
from geodm_lightning.probes.sets import advice_of, classes_at_once, lockstep_slope
from geodm_lightning.stages.run import Run

# Where no line is measured: the settings that memory grows with, and what else they change.
OTHERS = {
    "generation": (("generator.batch_size", ""),),
    "relabel": (("teachers.batch_size", ""),),
    "evaluate": (
        ("evaluation.together", ""),
        ("evaluation.protocol.batch_size", ", which makes it another protocol"),
    ),
}
OTHERS["score"] = OTHERS["evaluate"]


def memory_advice(run: Run, stage: str) -> str:
    """Say which setting to lower to what, once memory has run out and is free again.

    For matching the value is measured: the line through one and two classes at once. Elsewhere
    it is half of what did not fit.

    Args:
        run: The run.
        stage: The stage that did not fit.
    """
    if stage == "distill":
        waiting = [m for m in run.methods if m.kind == "matching" and is_waiting(run, m)]
        if waiting:
            key = assembly.sharing_key(waiting[0].settings)
            rows = [m for m in waiting if assembly.sharing_key(m.settings) == key]
            return matching_advice(run._replace(settings=rows[0].settings), rows)
        stage = "generation"
    for key, note in OTHERS.get(stage, ()):
        value = look_up(run.settings, key)
        if isinstance(value, int) and value > 1:
            return f"lower {key} from {value} to {value // 2} and try again{note}"
        if value == "auto":
            return f"set {key}=1{note}"
    return "use a device with more memory"


def is_waiting(run: Run, method: Method) -> bool:
    """Whether the set of a row is not made yet."""
    return not is_complete(run.folder.distilled(method.key, is_main=method.is_main))


def matching_advice(run: Run, rows: Sequence[Method]) -> str:
    """Measure what one and two classes at once of rows in lockstep need, and say how many fit."""
    site = run.site._replace(processes=Alone(*run.site.processes))
    try:
        real = assembly.build_real_features(run.settings, run.data, site)
        distillers = [assembly.build_distiller(row.settings, run.data, site, real) for row in rows]
        slope = lockstep_slope(distillers, site.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (
            "not even one class at once fits: lower distiller.real_batch, "
            f"{assembly.real_batch(run.settings)} now, with distiller.classes_per_step=1"
        )
    return advice_of(run.settings, slope, classes_at_once(distillers[0]), room_on(site.device))


def look_up(settings: dict[str, object], key: str) -> object:
    """Return the setting that a dotted key names, None where there is none."""
    value: object = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
