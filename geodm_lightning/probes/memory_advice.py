"""What to lower when memory has run out in a stage, and to what."""

from __future__ import annotations

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.memory import RESERVE, available_bytes, is_out_of_memory
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone
from geodm_lightning.probes.sets import advice_of, classes_at_once, matching_slope
from geodm_lightning.site import Site
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


def memory_advice(run: Run, stage: str) -> str:
    """Say which setting to lower to what, once memory has run out and is free again.

    For matching the value is measured: the line through one and two classes at once. Elsewhere
    it is half of what did not fit.

    Args:
        run: The run.
        stage: The stage that did not fit.
    """
    if stage == "distill":
        row = next((m for m in run.methods if m.kind == "matching" and is_waiting(run, m)), None)
        if row is not None:
            return matching_advice(run._replace(settings=row.settings))
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


def matching_advice(run: Run) -> str:
    """Measure what one and two classes at once need, and say how many fit."""
    site = Site(run.site.device, run.site.precision, Alone(*run.site.processes))
    try:
        real = assembly.build_real_features(run.settings, run.data, site)
        distiller = assembly.build_distiller(run.settings, run.data, site, real)
        slope = matching_slope(distiller, site.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (
            "not even one class at once fits: lower distiller.real_batch, "
            f"{assembly.real_batch(run.settings)} now, with distiller.classes_per_step=1"
        )
    available = round(RESERVE * available_bytes(site.device))
    return advice_of(run.settings, slope, classes_at_once(distiller), available)


def look_up(settings: dict[str, object], key: str) -> object:
    """Return the setting that a dotted key names, None where there is none."""
    value: object = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
