"""Confidence intervals of a mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from geodm_lightning.types import InputError

LEVEL = 0.95  # of every interval that is printed


class Interval(NamedTuple):
    """Where a mean lies with some confidence.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


def t_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    r"""Return Student's interval of the mean of independent values.

    .. math::
        \bar x \pm t_{n-1,\,(1+\text{level})/2}\; s / \sqrt n

    Args:
        values: Independent values of one distribution.
        level: Confidence, in (0, 1).

    Returns:
        The interval; None for a single value, which tells nothing of its spread.

    Raises:
        InputError: If the level is not inside (0, 1).

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies inside (0, 1), got {level}")
    if len(values) < 2:
        return None
    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(mean - half, mean + half)
