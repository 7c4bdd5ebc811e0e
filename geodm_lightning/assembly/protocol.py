"""From settings to the protocol that students are trained under, by every architecture."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from geodm_lightning.assembly.options import capped, network_options
from geodm_lightning.evaluation.architecture import Architecture
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.types import DatasetSpec, InputError


def build_protocol(settings: dict[str, Any], spec: DatasetSpec) -> Protocol:
    """Build the protocol under the schedule's caps, fitted to the data set."""
    evaluation, schedule = settings["evaluation"], settings["schedule"]
    protocol = Protocol(
        **evaluation["protocol"],
        network=evaluation["student"]["name"],
        network_options=network_options(evaluation["student"]),
        num_students=capped(evaluation["num_students"], schedule["max_students"]),
    )
    if schedule["max_student_epochs"] is not None:
        protocol = protocol.shortened(schedule["max_student_epochs"])
    return replace(protocol, whole_steps=capped(protocol.whole_steps, schedule["max_whole_steps"]))


def build_architectures(settings: dict[str, Any], spec: DatasetSpec) -> list[Architecture]:
    """Return what the students of every row are: the protocol's own network, then the others.

    Raises:
        InputError: If an entry has no network or a name that cannot stand in a key.
    """
    protocol = build_protocol(settings, spec)
    built = [Architecture("", "", protocol)]
    for name, network in (settings.get("architectures") or {}).items():
        if not re.fullmatch(r"[\w.-]+", str(name)):
            raise InputError(f"architecture {name!r} must be named by letters, digits, _, . or -")
        if not isinstance(network, dict) or not network.get("name"):
            raise InputError(
                f"architectures.{name} must name a network, such as {{name: resnet18}}: {network!r}"
            )
        options = {key: value for key, value in network.items() if key != "label"}
        other = replace(protocol, network=network["name"], network_options=network_options(options))
        built.append(Architecture(str(name), str(network.get("label", name)), other))
    return built
