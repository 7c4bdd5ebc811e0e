"""What to lower when memory has run out in a stage, and to what."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.student import fresh_networks
from geodm_lightning.evaluation.views import input_spec
from geodm_lightning.memory import Slope, gigabytes, is_out_of_memory, room_on, slope_of, traced
from geodm_lightning.methods import Method
from geodm_lightning.probes.probe import Alone
from geodm_lightning.probes.sets import advice_of, classes_at_once, lockstep_slope
from geodm_lightning.stages.run import Run

# Where no line is measured: the settings that memory grows with.
OTHERS = {"generation": "generator.batch_size", "relabel": "teachers.batch_size"}
STUDENTS = ("evaluate", "score")
MORE = "use a device with more memory"
MOMENTS = 4  # values that an optimiser and the gradient keep beside a weight, at most


def memory_advice(run: Run, stage: str) -> str:
    """Say which setting to lower to what, once memory has run out and is free again.

    For matching and for students the value is measured: the line through one and two classes
    at once, or through two small batches. Elsewhere it is half of what did not fit.

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
    if stage in STUDENTS:
        return students_advice(run)
    key = OTHERS.get(stage, "")
    value = look_up(run.settings, key)
    if isinstance(value, int) and value > 1:
        return f"lower {key} from {value} to {value // 2} and try again"
    return MORE


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


def students_advice(run: Run) -> str:
    """Measure what students need, and say how many at once or what batches fit."""
    images = run.data.spec.num_classes * run.settings["ipc"]
    if any(method.kind == "whole" for method in run.methods):
        images = len(run.data.train)
    protocols = [a.protocol for a in assembly.build_architectures(run.settings, run.data.spec)]
    batch, together = min(protocols[0].batch_size, images), run.settings["evaluation"]["together"]
    try:
        slopes = [student_slope(protocol, run, batch) for protocol in protocols]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return f"not even a student with a small batch fits: {MORE}"
    dearest = max(slopes, key=lambda slope: slope.at(batch))
    room = room_on(run.site.device)
    start = f"a student with batches of {batch} needs {gigabytes(dearest.at(batch))}, "
    start += f"{room.told()}: "
    fitting = room.usable // dearest.at(batch)
    if together != 1 and fitting >= 1:
        most = 1 if together == "auto" else min(fitting, together - 1)
        return f"{start}lower evaluation.together from {together} to {most}"
    fewer = min(dearest.largest(room.usable), batch // 2)
    if fewer < 1:
        return start + MORE
    alone = "" if together == 1 else " with evaluation.together=1"
    return (
        f"{start}lower evaluation.protocol.batch_size to {fewer}{alone}, which makes it another "
        "protocol"
    )


def student_slope(protocol: Protocol, run: Run, batch: int) -> Slope:
    """Measure what a step of a student takes by the images of its batch."""
    spec, device = input_spec(protocol, run.data.spec), run.site.device
    (network,) = fresh_networks(protocol, run.data.spec, seed=run.seed, indices=[0])
    network.to(device)

    def needs(count: int) -> int:
        images = torch.zeros(count, spec.channels, spec.resolution, spec.resolution, device=device)
        with traced(device) as peak:
            network(images).sum().backward()
        network.zero_grad(set_to_none=True)
        return peak()

    low = max(1, batch // 16)
    slope = slope_of(needs, low, min(batch, 2 * low))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    return slope._replace(base=slope.base + MOMENTS * weights)


def look_up(settings: dict[str, object], key: str) -> object:
    """Return the setting that a dotted key names, None where there is none."""
    value: object = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
