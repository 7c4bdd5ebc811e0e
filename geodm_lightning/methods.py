"""The rows of a run's table: its own method and the baselines beside it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        key: Name in files, such as ``"geodm"`` or ``"random"``.
        label: Name shown to readers.
        kind: ``"matching"``, ``"selection"`` or ``"whole"``.
        is_main: Whether it is the run's own method rather than a baseline.
        euclidean: Whether geometry and transport are switched off.
    """

    key: str
    label: str
    kind: str
    is_main: bool = False
    euclidean: bool = False


def methods_of(settings: dict[str, Any]) -> list[Method]:
    """Return the rows of a run, baselines in the order of the table and the method last but one."""
    matching = settings["matching"]
    flat = settings["geometry"]["factors"] == ["euclidean"] and matching["transport_weight"] == 0
    base = Method(matching["name"], matching["label"], "matching", euclidean=True)
    suffix = "" if matching["name"] == "dm" else f" ({matching['label']})"
    main = base if flat else Method("geodm", f"GeoDM{suffix}", "matching")
    wanted = settings["baselines"]
    rows = {
        "random": Method("random", "Random real images", "selection"),
        "herding": Method("herding", "Herding", "selection"),
        "base": None if flat else base,
        "whole": Method("whole", "Whole training set", "whole"),
    }
    before = [rows[name] for name in ("random", "herding", "base") if name in wanted]
    after = [rows["whole"]] if "whole" in wanted else []
    return [row for row in (*before, main._replace(is_main=True), *after) if row is not None]
