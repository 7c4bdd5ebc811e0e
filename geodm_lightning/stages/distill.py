"""Make or import the sets of a run: the method's own and those of the rows beside it."""

from __future__ import annotations

from pathlib import Path

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import is_complete
from geodm_lightning.methods import Method
from geodm_lightning.stages.gates import check_gates
from geodm_lightning.stages.generate import generate
from geodm_lightning.stages.imported import import_set
from geodm_lightning.stages.learn import learn
from geodm_lightning.stages.run import Run
from geodm_lightning.stages.sets import check_made_alike, choose, save


def distill(run: Run) -> Path:
    """Make every set that is not there yet.

    Rows that look at the same real images through the same networks are learned in lockstep;
    rows that are sampled share one diffusion model. Sets that were made elsewhere are copied, and
    looked through for what would waste hours.

    Returns:
        Folder of the method's own set.
    """
    waiting: list[Method] = []
    for method in run.methods:
        if method.kind != "whole":
            if is_complete(run.folder.distilled(method.key, is_main=method.is_main)):
                check_made_alike(run, method)
            else:
                waiting.append(method)
    groups: dict[str, list[Method]] = {}
    for method in waiting:
        if method.kind == "matching":
            groups.setdefault(assembly.sharing_key(method.settings), []).append(method)
        elif method.kind == "imported":
            save(run, method, import_set(run, method))
    for methods in groups.values():
        learn(run, methods)
    for method in waiting:  # after what is learned: herding first trains a network of its own
        if method.kind == "selection":
            save(run, method, choose(run, method))
    sampled = [method for method in waiting if method.kind == "generation"]
    if sampled:
        generator = assembly.build_generator(run.settings, run.data, run.site)
        for method in sampled:
            save(run, method, generate(run, method, generator))
    run.site.processes.barrier()
    if any(method.kind == "imported" for method in run.methods):
        check_gates(run)
    main = next(method for method in run.methods if method.is_main)
    return run.folder.distilled(main.key, is_main=True)
