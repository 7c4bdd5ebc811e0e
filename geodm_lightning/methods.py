"""The rows of a run's table: its own method, the baselines and the variants beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from geodm_lightning.types import InputError

Settings = dict[str, Any]
# What a variant may change.
VARIABLE = ("geometry", "transport", "matching", "distiller", "pool", "guidance")
EUCLIDEAN: Settings = {
    "_target_": "geodm_lightning.geometry.product.build_product",
    "factors": ["euclidean"],
    "curvature": {},
    "weights": [1.0],
    "learning": "fixed",
}
UNTELLING = ("distilled", "baselines", "data", "images", "images_best", "distilled_data")
UNGUIDED: Settings = {
    "name": "unguided",
    "label": "Diffusion, unguided",
    "transport": None,
    "deviation": None,
    "influence": None,
}


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        key: Name in files, such as ``"geodm"`` or ``"random"``.
        label: Name shown to readers.
        kind: ``"matching"``, ``"generation"``, ``"imported"``, ``"selection"`` or ``"whole"``.
        settings: The run's settings as this row sees them.
        is_main: Whether it is the run's own method rather than one beside it.
    """

    key: str
    label: str
    kind: str
    settings: Settings
    is_main: bool = False


def methods_of(settings: Settings) -> list[Method]:
    """Return the rows of a run in the order of the table, the method last but one.

    Raises:
        InputError: If a row has the name of another one, or a variant changes what it may not.
    """
    wanted = settings["baselines"]
    own = own_rows(settings)
    rows = {
        "random": Method("random", "Random real images", "selection", settings),
        "mosaic": Method("mosaic", "Random real mosaics", "selection", settings),
        "herding": Method("herding", "Herding", "selection", settings),
        "base": own.base,
        "control": own.control,
        "whole": Method("whole", "Whole training set", "whole", settings),
    }
    order = ("random", "mosaic", "herding", "base", "control")
    before = [rows[name] for name in order if name in wanted]
    after = [rows["whole"]] if "whole" in wanted else []
    beside = [*own.others, *variants_of(settings, kind=own.main.kind)]
    taken = {row.key for row in rows.values() if row is not None}
    for row in (own.main, *beside):
        if row.key in taken:
            noun = "set" if row.kind == "imported" else "variant"
            raise InputError(f"{noun} {row.key!r} has the name of another row; rename it")
        taken.add(row.key)
    main = [own.main._replace(is_main=True)]
    made = [*main, *beside] if own.main.kind == "imported" else [*beside, *main]
    return [row for row in (*before, *made, *after) if row is not None]


class OwnRows(NamedTuple):
    """The rows that a run makes rather than chooses.

    Attributes:
        main: The run's own method.
        base: What it is built on, None where it is that itself.
        control: The same with a geometry that is not learned, None where that changes nothing.
        others: Further rows that were made elsewhere.
    """

    main: Method
    base: Method | None = None
    control: Method | None = None
    others: tuple[Method, ...] = ()


def own_rows(settings: Settings) -> OwnRows:
    """Return the rows that a run makes, samples or imports."""
    rows = {"imported": imported_rows, "guided_diffusion": generated_rows}
    return rows.get(settings["distiller"].get("kind"), matched_rows)(settings)


def imports(settings: Settings) -> bool:
    """Whether the sets were made elsewhere and are only judged."""
    return settings["distiller"].get("kind") == "imported"


def imported_rows(settings: Settings) -> OwnRows:
    """Return the rows of sets that were made elsewhere, in their order.

    Raises:
        InputError: If there is no set, or not a name for each.
    """
    options = settings["distiller"]
    paths, names = as_list(options["path"]), as_list(options["name"] or [])
    names = names or [called(as_list(path)[0]) for path in paths]
    if len(names) != len(paths):
        raise InputError(f"distiller.name has {len(names)} names for {len(paths)} sets")
    rows = []
    for name, path in zip(names, paths, strict=True):
        key = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_") or "imported"
        own = {**settings, "distiller": {**options, "path": path, "name": name}}
        rows.append(Method(key, str(name), "imported", own))
    return OwnRows(rows[0], others=tuple(rows[1:]))


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, anything else as the only entry of one."""
    return value if isinstance(value, list) else [value]


def called(path: str) -> str:
    """Return what a set made elsewhere is called: the first telling part of its path.

    Example:
        >>> called("runs/cifar10_ipc10/0/distilled"), called("res_DM_CIFAR10_ConvNet_10ipc.pt")
        ('cifar10_ipc10', 'res_DM_CIFAR10_ConvNet_10ipc')
    """
    parts = [PurePath(path).stem, *(parent.name for parent in PurePath(path).parents)]
    telling = (part for part in parts if part and part not in UNTELLING and not part.isdigit())
    return next(telling, path)


def matched_rows(settings: Settings) -> OwnRows:
    """Return the rows of a run that learns its images."""
    matching, control = settings["matching"], controlled(settings)
    base = Method(matching["name"], matching["label"], "matching", flattened(settings))
    if is_flat(settings):
        return OwnRows(base)
    suffix = "" if matching["name"] == "dm" else f" ({matching['label']})"
    fixed = Method("control", f"Fixed geometry{suffix}", "matching", control)
    main = Method("geodm", f"GeoDM{suffix}", "matching", settings)
    return OwnRows(main, base, None if control == settings else fixed)


def generated_rows(settings: Settings) -> OwnRows:
    """Return the rows of a run that samples its images: guided, and the same model unguided."""
    guidance = settings["guidance"]
    main = Method(guidance["name"], guidance["label"], "generation", settings)
    unguided = {**settings, "guidance": UNGUIDED}
    base = Method(UNGUIDED["name"], UNGUIDED["label"], "generation", unguided)
    return OwnRows(main, None if main.key == base.key else base)


def variants_of(settings: Settings, *, kind: str) -> list[Method]:
    """Return the rows that the settings' ``variants`` describe, all of one kind.

    Raises:
        InputError: If a variant changes what all rows of a table share, or sets are imported.
    """
    if settings.get("variants") and kind == "imported":
        raise InputError("variants change how a set is made, not one made elsewhere; name several")
    rows = []
    for key, variant in (settings.get("variants") or {}).items():
        changes = {name: value for name, value in variant.items() if name != "label"}
        fixed = [name for name in changes if name not in VARIABLE]
        if fixed:
            raise InputError(
                f"variant {key!r} changes {fixed[0]!r}, which all rows of a table share; it may "
                f"change {', '.join(VARIABLE)}"
            )
        settings_of_row = changed(settings, changes, name=f"variants.{key}")
        rows.append(Method(key, variant.get("label", key), kind, settings_of_row))
    return rows


def is_flat(settings: Settings) -> bool:
    """Whether the settings are those of the strategy without geometry and transport."""
    return (
        settings["geometry"]["factors"] == ["euclidean"]
        and settings["matching"]["transport_weight"] == 0
    )


def flattened(settings: Settings) -> Settings:
    """Return the settings of the Euclidean original: the strategy alone."""
    matching = {**settings["matching"], "transport_weight": 0.0}
    return {**settings, "geometry": EUCLIDEAN, "matching": matching}


def controlled(settings: Settings) -> Settings:
    """Return the settings of the control: curvature 1 and equal weights, nothing learned.

    A factor whose sign of curvature is learned stays where it starts.
    """
    geometry = settings["geometry"]
    curvature = {
        name: value if name.startswith("stereographic") else 1.0
        for name, value in geometry["curvature"].items()
    }
    fixed = {"curvature": curvature, "weights": None, "learning": "fixed"}
    flags = {"learn_curvature": False, "learn_weights": False}
    return {**settings, "geometry": {**geometry, **fixed, **flags}}


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any], *, name: str) -> Settings:
    """Return settings with changes merged in, mapping by mapping.

    A mapping whose ``_target_`` or ``kind`` changes is replaced whole, as its entries belong to
    something else; so is one that was null or empty. Curvatures may name factors of their own.

    Args:
        settings: Settings to start from; left as they are.
        changes: What replaces or is merged into them.
        name: How to call the changes in an error.

    Raises:
        InputError: If a change names a key that the settings do not have.
    """
    merged = dict(settings)
    for key, value in changes.items():
        if key not in settings:
            known = ", ".join(settings)
            raise InputError(f"{name}.{key} is not a setting; choose among {known}")
        old = settings[key]
        if key == "curvature":
            merged[key] = {**old, **value}
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping) and is_alike(old, value):
            merged[key] = changed(old, value, name=f"{name}.{key}")
        else:
            merged[key] = value
    return merged


def is_alike(old: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether a mapping describes the same kind of thing as the one it is merged into."""
    return bool(old) and all(
        value.get(name, old.get(name)) == old.get(name) for name in ("_target_", "kind")
    )
