"""Networks besides the protocol's own that a set is judged by."""

from __future__ import annotations

from typing import NamedTuple

from geodm_lightning.evaluation.protocol import Protocol


class Architecture(NamedTuple):
    """A student's network under a protocol.

    Attributes:
        name: Short name in keys of results, empty for the protocol's own network.
        label: How readers call it.
        protocol: The protocol with this network.
    """

    name: str
    label: str
    protocol: Protocol
