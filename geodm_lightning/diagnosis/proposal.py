"""A start for the product space, from how well each geometry fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

NO_EVIDENCE = 1.0  # curvature where the data say nothing: the usual start of a factor
SMALLEST_RESIDUAL = 1e-3  # residuals below tell apart nothing but roundings and grid steps


class Proposal(NamedTuple):
    """Where a product space could start.

    Attributes:
        curvature: Magnitudes of the hyperbolic and the spherical factor.
        weights: Weights of the three factors, which sum to 1.
        reason: The reason in plain words.
    """

    curvature: dict[str, float]
    weights: dict[str, float]
    reason: str


def propose(
    residuals: Mapping[str, float],
    controls: Mapping[str, Sequence[float]],
    curvature: Mapping[str, float],
) -> Proposal:
    """Turn fits into a start for the product space; a rule of ours, not of the literature.

    What counts is how much better than flat a geometry fits, and whether it does so more than
    on Gaussian controls, which the neighbour graph bends too. The weight of a geometry is
    proportional to its gain: its mean residual on the controls over that on the data. A
    curvature is taken from the fit where residual over flat residual is below that of every
    control; elsewhere it stays at 1. So data that look Gaussian change nothing.

    Args:
        residuals: Residual of each geometry on the data, by factor name; ``euclidean`` is one.
        controls: Residuals on the controls, by factor name, in the same order of controls.
        curvature: Best magnitudes of the curved factors.

    Returns:
        Curvatures, weights and the reason.

    Example:
        Data that a sphere fits better than their control, relative to flat space:

        >>> fits = {"euclidean": 0.2, "hyperbolic": 0.2, "spherical": 0.05}
        >>> usual = {"euclidean": [0.2, 0.2], "hyperbolic": [0.2, 0.2], "spherical": [0.1, 0.1]}
        >>> propose(fits, usual, {"hyperbolic": 0.1, "spherical": 2.0}).curvature
        {'hyperbolic': 1.0, 'spherical': 2.0}
    """
    held = {name: max(value, SMALLEST_RESIDUAL) for name, value in residuals.items()}
    usual = {
        name: [max(value, SMALLEST_RESIDUAL) for value in values]
        for name, values in controls.items()
    }
    gain = {name: sum(usual[name]) / len(usual[name]) / held[name] for name in held}
    weights = {name: round(value / sum(gain.values()), 3) for name, value in gain.items()}
    largest = max(weights, key=lambda name: weights[name])
    weights[largest] = round(weights[largest] + 1 - sum(weights.values()), 3)

    start, words = {}, []
    for name, magnitude in curvature.items():
        share = held[name] / held["euclidean"]
        rivals = [a / b for a, b in zip(usual[name], usual["euclidean"], strict=True)]
        evident = share < min(rivals)
        start[name] = round(magnitude, 2) if evident else NO_EVIDENCE
        words.append(
            f"the {name} error is {share:.3f} of the flat one on the data and from "
            f"{min(rivals):.3f} on Gaussian controls, so its curvature "
            + ("is taken from the fit" if evident else f"stays at {NO_EVIDENCE:g}")
        )
    return Proposal(start, weights, "; ".join(words))
