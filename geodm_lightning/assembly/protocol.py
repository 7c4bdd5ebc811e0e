"""From settings to the protocol that students are trained under."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from geodm_lightning.assembly.options import capped, network_options
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.types import DatasetSpec


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
