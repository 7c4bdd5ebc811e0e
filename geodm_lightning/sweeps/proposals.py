"""Which point a sweep tries next: a function of its seed, the trial's number and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from geodm_lightning.randomness import keyed_seed
from geodm_lightning.sweeps.space import Axis, Point, Space, rounded

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Direction = Literal["maximize", "minimize"]


def propose(space: Space, history: Sequence[FrozenTrial], *, seed: int, number: int) -> Point:
    """Return the point of a trial.

    Nothing is remembered between two calls, so a sweep that was killed proposes what the
    uninterrupted one would have.

    Args:
        space: What may be chosen. A grid is walked through in order; ``random`` draws every axis
            by itself; ``bayes`` is Optuna's tree-structured Parzen estimator.
        history: Finished trials; ``bayes`` alone looks at them.
        seed: Seed of the sweep.
        number: Number of the trial, from 0.
    """
    import optuna

    if space.method == "grid":
        return space.grid()[number]
    numpy_seed = keyed_seed(seed, "trial", number) % 2**32
    sampler: optuna.samplers.BaseSampler
    if space.method == "random":
        sampler = optuna.samplers.RandomSampler(seed=numpy_seed)
        history = ()
    else:
        sampler = optuna.samplers.TPESampler(seed=numpy_seed)
    study = optuna.create_study(direction=direction(space), sampler=sampler)
    study.add_trials(history)
    drawn = study.ask(distributions(space)).params
    return {axis.key: _tidied(drawn[axis.key], axis) for axis in space.axes}


def direction(space: Space) -> Direction:
    """Return the way the metric shall go, as Optuna calls it."""
    return "maximize" if space.maximise else "minimize"


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the axes of a space as Optuna's distributions."""
    return {axis.key: _distribution(axis) for axis in space.axes}


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.choices is not None:
        return CategoricalDistribution(axis.choices)
    if axis.is_whole:
        return IntDistribution(int(axis.low), int(axis.high))
    if axis.step is None:
        return FloatDistribution(axis.low, axis.high, log=axis.is_log)
    steps = math.floor((axis.high - axis.low) / axis.step + 1e-9)
    return FloatDistribution(axis.low, axis.low + steps * axis.step, step=axis.step)


def _tidied(value: float, axis: Axis) -> float:
    is_free = axis.choices is None and not axis.is_whole and axis.step is None
    return rounded(value, axis) if is_free else value
