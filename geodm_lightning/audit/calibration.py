r"""How far the confidence of a classifier is from how often it is right.

A student that says "80 %" should be right in 80 % of the cases. Answers are sorted by confidence
into bins of equal width, and in every bin the mean confidence is compared with the accuracy:

.. math:: ECE = \sum_b \frac{n_b}{n} \lvert \mathrm{accuracy}_b - \mathrm{confidence}_b \rvert .

The three sums of every bin suffice, so a test set is walked through in batches whose sums add up.

References:
    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", 2015; Guo et al., "On calibration of modern neural networks", 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.types import InputError

NUM_BINS = 15  # Guo et al.


def confidence_sums(logits: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> Tensor:
    """Sort answers by confidence and sum up what calibration needs.

    Args:
        logits: ``(..., n, K)`` answers of any precision; leading axes are of several students.
        labels: ``(n,)`` true classes.
        num_bins: Bins of equal width; the i-th holds confidences in ``(i / num_bins,
            (i + 1) / num_bins]``.

    Returns:
        ``(..., 3, num_bins)`` float64 sums of every bin, which add up over batches: how many
        answers, their confidences, how many were right.

    Raises:
        InputError: If there is no bin or no class, or labels and answers do not fit.
    """
    if num_bins < 1:
        raise InputError(f"calibration needs at least 1 bin, got {num_bins}")
    if logits.dim() < 2 or not logits.shape[-1] or labels.shape != logits.shape[-2:-1]:
        raise InputError(
            f"answers of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} "
            "do not fit; give logits (..., n, K) and labels (n,)"
        )
    confidence, answer = logits.double().softmax(-1).max(-1)
    index = ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    right = (answer == labels).double()
    rows = torch.stack([torch.ones_like(confidence), confidence, right], dim=-2)
    members = F.one_hot(index, num_bins).double()
    return rows @ members


class Reliability(NamedTuple):
    """One bar of a reliability diagram.

    Attributes:
        share: Share of all answers that fall into the bin.
        confidence: Their mean confidence.
        accuracy: Fraction of them that is right.
    """

    share: float
    confidence: float
    accuracy: float


def reliability(sums: Tensor) -> list[Reliability]:
    """Return the bins that hold answers, from the least confident.

    Args:
        sums: ``(3, bins)`` of :func:`confidence_sums`, added over all batches.

    Raises:
        InputError: If no answer was counted, or the sums are not finite.
    """
    counts, confidences, rights = _checked(sums)
    total = float(counts.sum())
    return [
        Reliability(count / total, confidence / count, right / count)
        for count, confidence, right in zip(
            counts.tolist(), confidences.tolist(), rights.tolist(), strict=True
        )
        if count
    ]


def expected_calibration_error(sums: Tensor) -> float:
    """Return the mean distance of accuracy and confidence, a fraction between 0 and 1.

    Args:
        sums: ``(3, bins)`` of :func:`confidence_sums`, added over all batches.

    Raises:
        InputError: If no answer was counted, or the sums are not finite.

    Example:
        Two answers that are sure of themselves, of which one is wrong.

        >>> sums = confidence_sums(torch.tensor([[0.0, 99.0], [99.0, 0.0]]), torch.tensor([1, 1]))
        >>> expected_calibration_error(sums)
        0.5
    """
    counts, confidences, rights = _checked(sums)
    return float((rights - confidences).abs().sum() / counts.sum())


def _checked(sums: Tensor) -> Tensor:
    if sums.dim() != 2 or len(sums) != 3:
        raise InputError(f"sums of confidences must be (3, bins), got shape {tuple(sums.shape)}")
    if not sums.isfinite().all() or not sums[0].sum() > 0:
        raise InputError("no answer was counted, or an answer was not finite; test the student")
    return sums.double()
