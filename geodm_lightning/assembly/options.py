"""Settings that more than one part of the assembly reads."""

from __future__ import annotations

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from geodm_lightning.types import InputError


def instantiate(config: dict[str, Any]) -> Any:
    """Build the object a configuration names by ``_target_``.

    Raises:
        InputError: As the object's constructor raised it.
    """
    try:
        return hydra.utils.instantiate(config, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def capped(published: int, cap: int | None) -> int:
    """Return a published number under the cap of a schedule, if it has one."""
    return published if cap is None else min(published, cap)


def network_options(network: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a configured network: all that is set, its name aside."""
    return {key: value for key, value in network.items() if key != "name" and value is not None}


def num_iterations(settings: dict[str, Any]) -> int:
    """Return the iterations of this run: the published number under the schedule's cap."""
    return capped(settings["distiller"]["num_iterations"], settings["schedule"]["max_iterations"])


def real_batch(settings: dict[str, Any]) -> int:
    """Return the real images per class of an iteration, under the schedule's cap."""
    return capped(settings["distiller"]["real_batch"], settings["schedule"]["max_real_batch"])
