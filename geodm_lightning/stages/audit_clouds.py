"""The measures of an audit, gathered while the real images pass by class after class."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodm_lightning.audit.coverage import measure_coverage, squared_radii
from geodm_lightning.audit.diversity import mean_distance, vendi_score
from geodm_lightning.audit.memorisation import NearestReal, ratio_to_second, relative_distances
from geodm_lightning.audit.options import AuditOptions
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.audit_images import RealClass, Seen

Measures = dict[str, float | None]
MOST_SHOWN = 20  # images shown with their nearest real ones, one of a class


class Clouds:
    """Coverage and diversity of sets and of random real images, class by class.

    Args:
        rows: The sets.
        options: How they are looked at.
        seed: Seed of the random real images.
    """

    def __init__(self, rows: Sequence[Seen], *, options: AuditOptions, seed: int) -> None:
        self._rows = rows
        self._options = options
        self._seed = seed
        self._measured: list[list[Measures]] = [[] for _ in rows]
        self._references: dict[int, list[list[Measures]]] = {}

    def update(self, real: RealClass) -> None:
        """Compare the images of one class with the real ones."""
        neighbours = min(self._options.neighbours, len(real.indices) - 1)
        radii = squared_radii(real.seen.features, neighbours=neighbours)
        known: dict[str, Any] = {"neighbours": neighbours, "radii": radii}
        sizes = set()
        for row, measured in zip(self._rows, self._measured, strict=True):
            points = row.features[row.labels == real.label]
            if len(points):
                measured.append(measures_of(real.seen.features, points, **known))
                sizes.add(min(len(points), len(real.indices)))
        for size in sorted(sizes):
            draws = self._references.setdefault(size, [[] for _ in range(self._options.references)])
            for draw, measured in enumerate(draws):
                key = ("audit", "reference", real.label, size, draw)
                generator = keyed_generator(self._seed, *key)
                chosen = torch.randperm(len(real.indices), generator=generator)[:size]
                points = real.seen.features[chosen.to(radii.device)]
                measured.append(measures_of(real.seen.features, points, **known))

    def of_row(self, index: int) -> dict[str, Any]:
        """Return the mean over the classes of a set."""
        return {"classes": len(self._measured[index]), **mean_of(self._measured[index])}

    def references(self) -> dict[str, Any]:
        """Return, by images per class, mean and deviation over the draws of random images."""
        found = {}
        for size, draws in self._references.items():
            means = [mean_of(draw) for draw in draws]
            found[str(size)] = {key: spread_of([one[key] for one in means]) for key in means[0]}
        return found


def measures_of(real: Tensor, points: Tensor, *, neighbours: int, radii: Tensor) -> Measures:
    """Measure the images of one class; features ``(n, d)`` and ``(m, d)``."""
    coverage = measure_coverage(real, points, neighbours=neighbours, radii=radii)
    return {
        **coverage._asdict(),
        "mean_distance": mean_distance(points),
        "vendi": vendi_score(points),
    }


def mean_of(measured: Sequence[Measures]) -> Measures:
    """Return the mean of every measure over the classes in which it is known."""
    means: Measures = {}
    for key in measured[0]:
        known = [value for one in measured if (value := one[key]) is not None]
        means[key] = statistics.mean(known) if known else None
    return means


def spread_of(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return mean and standard deviation, None where nothing is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": statistics.mean(known), "std": deviation}


class Neighbours:
    """The nearest real images of sets, in pixels and in features.

    Args:
        rows: The sets; at most ``options.max_images`` evenly spaced images of each are asked.
        usual: Real images that tell which distance is usual.
        usual_indices: ``(r,)`` their indices in the training table.
        options: How they are looked at.
    """

    def __init__(
        self, rows: Sequence[Seen], *, usual: Seen, usual_indices: Tensor, options: AuditOptions
    ) -> None:
        self.asked = [_evenly(len(row.labels), options.max_images) for row in rows]
        self._labels = [row.labels[a] for row, a in zip(rows, self.asked, strict=True)]
        self._options = options
        sizes = [len(asked) for asked in self.asked]
        self._slices = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
        self._first_usual = sum(sizes)
        none = torch.full((self._first_usual,), -1, device=usual_indices.device)
        excluded = torch.cat([none, usual_indices])
        self._found = {}
        for kind in ("pixels", "features"):
            chosen = [getattr(row, kind)[a] for row, a in zip(rows, self.asked, strict=True)]
            queries = torch.cat([*chosen, getattr(usual, kind)])
            self._found[kind] = NearestReal(queries, num=options.shown, excluded=excluded)

    def update(self, real: RealClass) -> None:
        """Let the real images of one class pass by."""
        for kind, nearest in self._found.items():
            nearest.update(getattr(real.seen, kind), real.indices)

    def relative(self, index: int, kind: str) -> Tensor:
        """Return ``(n,)`` distances of a set's images over the usual one."""
        distances = self._found[kind].distances
        return relative_distances(distances[self._slices[index]], distances[self._first_usual :])

    def of_row(self, index: int, real_labels: Tensor) -> dict[str, Any]:
        """Return what is told of a set, as JSON values.

        Args:
            index: Which set.
            real_labels: ``(N,)`` classes of the training table.
        """
        copies = self.relative(index, "pixels") < self._options.copy
        told: dict[str, Any] = {"checked": len(copies), "copies": int(copies.sum())}
        for kind, nearest in self._found.items():
            rows = self._slices[index]
            relative = self.relative(index, kind)
            ratio = ratio_to_second(nearest.distances[rows])
            same = real_labels[nearest.indices[rows, 0]] == self._labels[index]
            told[kind] = {
                "median_relative": float(relative.median()),
                "smallest_relative": float(relative.min()),
                "median_ratio": float(ratio.median()),
                "same_class": float(same.double().mean()),
            }
        return told

    def shown(self, index: int) -> list[dict[str, Any]]:
        """Return the image of every class that is nearest to a real one, nearest first."""
        relative, nearest = self.relative(index, "pixels"), self._found["pixels"]
        chosen: dict[int, int] = {}
        for position in relative.argsort().tolist():
            chosen.setdefault(int(self._labels[index][position]), position)
        start = self._slices[index].start
        return [
            {
                "image": int(self.asked[index][position]),
                "label": label,
                "relative": float(relative[position]),
                "nearest": nearest.indices[start + position].tolist(),
                "distances": nearest.distances[start + position].tolist(),
            }
            for label, position in list(chosen.items())[:MOST_SHOWN]
        ]


def _evenly(count: int, most: int) -> Tensor:
    return torch.arange(0, count, max(1, -(-count // most)))
