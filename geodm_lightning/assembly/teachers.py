"""From settings to the teachers that label a set, and the store of their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geodm_lightning.assembly.generator import imagenet_of
from geodm_lightning.assembly.networks import network_builder
from geodm_lightning.assembly.protocol import build_protocol
from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.batches import fetch_from_table
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.distillers.pretrain import PretrainSettings, pretrained_states
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.evaluation.views import centre_cropped, input_spec, view_recipe
from geodm_lightning.labels.labeller import label_identity
from geodm_lightning.labels.pool import TeacherPool, aligned_prefix
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.labels.teachers import Teacher, TeacherSpec, load_teacher
from geodm_lightning.networks.network import Network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import DatasetSpec, InputError


def build_supervisions(settings: dict[str, Any]) -> list[Supervision]:
    """Return what students learn from, a column of the table each.

    Raises:
        InputError: If a number is out of range or a name is unknown.
    """
    supervisions = []
    for name, options in settings["supervision"].items():
        try:
            supervisions.append(Supervision(name=name, **options))
        except TypeError as error:
            raise InputError(
                f"supervision.{name} does not fit ({error}); see configs/supervision/soft.yaml"
            ) from error
    return supervisions


def wanted_teachers(settings: dict[str, Any]) -> dict[str, int]:
    """Return how many teachers each kind of supervision asks, by that kind.

    Labels that came with a set ask nobody.

    Raises:
        InputError: If the IPC lies below all that ``teachers.aligned`` lists.
    """
    supervisions = build_supervisions(settings)
    kinds = {s.teachers for s in supervisions if s.teachers not in (None, "own")}
    pool, listed = settings["teachers"]["pool"], settings["teachers"].get("aligned")
    counts: dict[str, int] = {}
    for kind in sorted(map(str, kinds)):
        aligned = {int(ipc): count for ipc, count in (listed or {}).items()}
        count = aligned_prefix(aligned, settings["ipc"]) if kind == "aligned" else len(pool)
        counts[kind] = min(count, len(pool))
    return counts


def build_teachers(
    settings: dict[str, Any], data: RealDataModule, site: Site, *, count: int
) -> TeacherPool:
    """Load the first teachers of the pool, or train them first where the settings say so.

    Raises:
        InputError: If weights are missing or damaged, or a teacher answers other classes.
    """
    options = settings["teachers"]
    return TeacherPool(
        [build_teacher(settings, data, site, index) for index in range(count)],
        precision=site.precision,
        chunk_size=options["batch_size"],
    ).to(site.device)


def build_pools(
    settings: dict[str, Any], data: RealDataModule, site: Site
) -> dict[str, TeacherPool]:
    """Return the pool that each kind of supervision asks, by that kind; they share teachers.

    Raises:
        InputError: If a teacher cannot be loaded or the IPC asks for none.
    """
    wanted = wanted_teachers(settings)
    if not wanted:
        return {}
    pool = build_teachers(settings, data, site, count=max(wanted.values()))
    return {kind: pool.prefix(count) for kind, count in wanted.items()}


def build_teacher(
    settings: dict[str, Any], data: RealDataModule, site: Site, index: int
) -> Teacher:
    """Load or train one teacher of the pool."""
    entry = dict(settings["teachers"]["pool"][index])
    spec = input_spec(build_protocol(settings, data.spec), data.spec)
    source, name = entry.pop("source"), entry.pop("name")
    if source == "trained":
        network = trained_teacher(settings, data, site, {"name": name, **entry}, index)
        return load_teacher(
            TeacherSpec(source, name), spec, resolution=spec.resolution, network=network
        )
    return load_published(settings, data.spec, settings["teachers"]["pool"][index])


def load_published(
    settings: dict[str, Any], dataset: DatasetSpec, entry: dict[str, Any]
) -> Teacher:
    """Load a teacher with published weights or those of a local file.

    Raises:
        InputError: If weights are missing or damaged, or the teacher answers other classes.
    """
    classes = settings["teachers"]["classes"]
    labels = imagenet_of(dataset) if classes == "imagenet" else classes
    spec = input_spec(build_protocol(settings, dataset), dataset)
    teacher = TeacherSpec(
        entry["source"],
        entry["name"],
        entry.get("weights"),
        None if labels is None else tuple(labels),
    )
    return load_teacher(teacher, spec, resolution=spec.resolution)


def trained_teacher(
    settings: dict[str, Any],
    data: RealDataModule,
    site: Site,
    network: dict[str, Any],
    index: int,
) -> Network:
    """Train a teacher on the real images, unless that was done before."""
    options = dict(settings["teachers"]["training"])
    spec = input_spec(build_protocol(settings, data.spec), data.spec)
    augmentation = {"strategy": options.pop("augmentation"), "mode": "one"}
    cutmix_probability = options.pop("cutmix_probability")

    build = network_builder(network, spec)
    _, final = pretrained_states(
        data.train,
        build,
        count=1,
        settings=PretrainSettings(max_steps=settings["schedule"]["max_teacher_steps"], **options),
        augmentation=augmentation_for(spec, **augmentation),
        cutmix_probability=cutmix_probability,
        folder=Path(settings["cache_dir"]) / "teachers",
        identity={
            "data": spec._asdict(),
            "network": network,
            "augmentation": augmentation,
            "cutmix_probability": cutmix_probability,
        },
        seed=index,  # teachers of one architecture differ; seeds of a run share them
        site=site,
        fetch=centre_cropped(
            fetch_from_table(data.train), side=data.spec.resolution, resolution=spec.resolution
        ),
    )
    trained = build(keyed_generator(index, "teacher"))
    trained.load_state_dict(final[0])
    return trained


def open_store(
    settings: dict[str, Any],
    candidate: Candidate,
    pool: TeacherPool,
    protocol: Protocol,
    *,
    spec: DatasetSpec,
    seed: int,
    folder: Path,
) -> LabelStore:
    """Open the store of what a pool says of the views of a set.

    Raises:
        InputError: If the folder holds other labels or is damaged.
    """
    options = settings["teachers"]
    recipe = view_recipe(protocol, spec)
    return LabelStore.open(
        folder,
        identity=label_identity(pool, recipe, seed=seed, images=candidate.digest),
        kind=options["kind"],
        num_views=len(candidate.labels),
        num_classes=spec.num_classes,
        num_epochs=protocol.epochs,
        top_k=min(options["top_k"], spec.num_classes) if options["kind"] == "topk" else None,
    )
