"""Learn the images of rows that match features."""

from __future__ import annotations

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distillers.loop import Member, run_distillations
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.distillers.state import capture
from geodm_lightning.methods import Method
from geodm_lightning.provenance import peak_memory
from geodm_lightning.reporting.progress import TrainingProgress
from geodm_lightning.reporting.tracking import CsvTracker
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.stages.sets import as_distilled_set, save

LONGEST_TITLE = 40


def learn(run: Run, methods: list[Method]) -> None:
    """Learn the images of rows that share real features, resuming from their checkpoints."""
    real = assembly.build_real_features(methods[0].settings, run.data, run.site)
    members = [member_of(run, method, real) for method in methods]
    first = min(member.distiller.iteration for member in members)
    total = assembly.num_iterations(methods[0].settings)
    names = ", ".join(method.label for method in methods)
    title = names if len(names) <= LONGEST_TITLE else f"{len(methods)} rows of the table"
    run_distillations(
        members,
        num_iterations=total,
        checkpoint_every=methods[0].settings["distiller"]["checkpoint_every"],
        site=run.site,
        callbacks=[
            TrainingProgress(f"distil {title}", num_steps=total, first_step=first, console=CONSOLE)
        ],
    )
    for method, member in zip(methods, members, strict=True):
        save(run, method, outcome(run, method, member.distiller))


def member_of(run: Run, method: Method, real: RealFeatures) -> Member:
    """Build the distillation of a row where its last checkpoint left it."""
    distiller = assembly.build_distiller(method.settings, run.data, run.site, real)
    member = Member(distiller, run.folder.checkpoint(method.key, is_main=method.is_main))
    first = member.resume()
    if run.site.processes.is_main:
        tracker = CsvTracker(run.folder.metrics, stage="distill", series=method.key)
        tracker.truncate(step=first + 1)
        distiller.trackers = [tracker, *(run.loggers if method.is_main else ())]
    return member


def outcome(run: Run, method: Method, distiller: MatchingDistiller) -> DistilledSet:
    """Return the images a finished distillation learned, with what they cost."""
    state = capture(distiller)
    total, published = distiller.iteration, method.settings["distiller"]["published_iterations"]
    return as_distilled_set(
        run,
        method,
        distiller.synthetic.unit_images(state["pixels"]),
        factor=distiller.synthetic.factor,
        iterations=total,
        schedule_share=None if published is None else total / published,
        geometry=distiller.matching.geometry.state(),
        cost={
            "seconds": state["seconds"],
            "seconds_per_iteration": state["seconds"] / total,
            "peak_memory_bytes": peak_memory(run.site.device),
            "component_seconds_per_iteration": distiller.ledger.per_iteration(),
            "component_peak_bytes": distiller.ledger.balance().bytes,
            "stretches": distiller.ledger.stretches() if distiller.ledger.marks else [],
            "processes": run.site.processes.world_size,
        },
    )
