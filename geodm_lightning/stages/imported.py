"""Sets that were made elsewhere: read, checked and copied into the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geodm_lightning import assembly
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.playback import check_batches
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.evaluation.views import view_recipe
from geodm_lightning.exchange.declaration import Declaration, Imported
from geodm_lightning.exchange.kept import KeptSets
from geodm_lightning.exchange.views import batches_of, import_views
from geodm_lightning.methods import Method, as_list, imports, methods_of
from geodm_lightning.stages.run import CONSOLE, Run
from geodm_lightning.types import DatasetSpec, InputError

PLAIN = ("format", "space", "factor", "labels", "experiment")
OWN = "own"  # folder of the labels that came with a set
KEPT = KeptSets(most=2**30)  # those this process has read


def with_images_per_class(settings: dict[str, Any], data: RealDataModule) -> dict[str, Any]:
    """Return settings with the images per class of the sets that are imported, if any are.

    Every set is read for that, so one that cannot be judged is refused before any work.

    Args:
        settings: Settings of a run; returned as they are where nothing is imported.
        data: Real images of the data set.

    Raises:
        InputError: If a set cannot be read, or sets of several sizes would share a table.
    """
    if not imports(settings):
        return settings
    rows = [row for row in methods_of(settings) if row.kind == "imported"]
    seeds = range(settings["seed"], settings["seed"] + settings["num_seeds"])
    found: dict[int, str] = {}
    for row in rows:
        for path in dict.fromkeys(path_of(row, seed, num_seeds=len(seeds)) for seed in seeds):
            imported = read(row, path, data.spec)
            check_own_labels(settings, row, imported, data.spec)
            found.setdefault(int(imported.distilled.manifest["ipc"]), str(path))
    if settings["ipc"] is not None:
        found.setdefault(settings["ipc"], f"ipc={settings['ipc']}")
    if len(found) > 1:
        sizes = ", ".join(f"{path} {ipc}" for ipc, path in found.items())
        raise InputError(
            f"sets of one table share their images per class, got {sizes}; judge them one by one"
        )
    (ipc,) = found
    assembly.check_images_per_class(data, ipc)
    return {**settings, "ipc": ipc}


def check_own_labels(
    settings: dict[str, Any], row: Method, imported: Imported, spec: DatasetSpec
) -> None:
    """Check that a set came with the labels that its students shall learn from.

    Raises:
        InputError: If it came with none, or with views that the protocol would not make.
    """
    asking = [each for each in assembly.build_supervisions(settings) if each.teachers == OWN]
    if not asking:
        return
    if imported.views is not None:
        protocol = assembly.build_protocol(settings, spec)
        view_recipe(protocol, spec)
        epochs, lengths = batches_of(imported)
        check_batches(lengths, protocol, epochs=epochs, num_images=sum(lengths))
    elif imported.distilled.soft_labels is None:
        raise without_labels(row.label, asking[0])


def without_labels(label: str, supervision: Supervision) -> InputError:
    """Return what is wrong with a set without the labels that a supervision learns from."""
    return InputError(
        f"{label} came without soft labels, which supervision {supervision.name} learns from; use "
        "supervision=hard"
    )


def path_of(row: Method, seed: int, *, num_seeds: int | None = None) -> Path:
    """Return the set that a seed of a row judges: one for all seeds, or one for each.

    Args:
        row: Row of an imported set.
        seed: Seed of the run.
        num_seeds: Seeds in all, to be compared with the sets; None where that was done.

    Raises:
        InputError: If there are several sets, but not one for each seed.
    """
    paths = as_list(row.settings["distiller"]["path"])
    if num_seeds is not None and len(paths) > 1 and num_seeds > len(paths):
        raise InputError(
            f"{row.label} has {len(paths)} sets for {num_seeds} seeds; use "
            f"num_seeds={len(paths)}, a set for each, or a single set"
        )
    return Path(paths[seed % len(paths)])


def read(row: Method, path: Path, spec: DatasetSpec) -> Imported:
    """Read a set with what the settings declare of it.

    Raises:
        InputError: If it cannot be read, or does not fit the data set or what is declared.
    """
    options = row.settings["distiller"]
    values: dict[str, Any] = {name: options[name] for name in PLAIN}
    values |= {name: options[name] and tuple(options[name]) for name in ("order", "mean", "std")}
    values |= {name: options[name] and Path(options[name]) for name in ("zca", "views")}
    declared = Declaration(**values, seed=options["fkd_seed"])
    return KEPT.read(path, spec=spec, declared=declared)


def import_set(run: Run, row: Method) -> DistilledSet:
    """Read the set of a row for the seed of a run, and print what had to be inferred.

    Views with labels that came with it are kept in the folder of the run's labels.

    Returns:
        The set under the row's name; its manifest says where it is from.

    Raises:
        InputError: If it cannot be read or does not fit.
    """
    path = path_of(row, run.seed)
    imported = read(row, path, run.data.spec)
    imported = imported._replace(warnings=(*imported.warnings, *rate_notes(imported.distilled)))
    if run.site.processes.is_main:
        for warning in imported.warnings:
            line = f"warning: {row.label}: {warning}"
            CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
        if imported.views is not None:
            folder = run.folder.labels(row.key, OWN)
            import_views(imported, folder, seed=row.settings["distiller"]["fkd_seed"])
    manifest = {
        **imported.distilled.manifest,
        "method": row.key,
        "label": row.label,
        "imported": {"path": str(path), "warnings": list(imported.warnings)},
    }
    return imported.distilled._replace(manifest=manifest)


def rate_notes(distilled: DistilledSet) -> tuple[str, ...]:
    """Say that a set came with a learned rate, which no protocol takes over by itself."""
    rate = distilled.manifest.get("learned", {}).get("lr")
    if rate is None:
        return ()
    take = f"evaluation.protocol.lr={rate:g}"
    return (
        f"it came with a learned rate of {rate:g}; the protocol keeps its own, {take} takes it",
    )


def check_unchanged(run: Run, row: Method) -> None:
    """Check that the set of a row is still the one that was imported before.

    Raises:
        InputError: If its file holds other images or labels now, or cannot be read.
    """
    folder, path = run.folder.distilled(row.key, is_main=row.is_main), path_of(row, run.seed)
    before = load_set(folder).digest()
    now = read(row, path, run.data.spec).distilled.digest()
    if before != now:
        raise InputError(
            f"{path} has changed since it was imported into {folder} (digest {before[:12]} there, "
            f"{now[:12]} now); choose another name=NAME, or delete {run.folder.path}"
        )
