"""Geometry fitted on real features alone, then held: the ``from_real`` mode of learning.

Minimising the matching loss over curvatures and weights rewards whatever shrinks distances.
Here they are asked instead to tell the classes of real images apart, which does not depend on
the unit of length, and stay as they are while images are distilled. All of it is inferred.

Near a point a product looks as if it had the mean of its curvatures by weight, which is what
the fit finds: a hyperbolic and a spherical factor that undo each other count as flat.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.distillers.real_features import RealFeatures
from geodm_lightning.files import name_of
from geodm_lightning.geometry.manifold import at_least_float32, pairwise
from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.ledger import Ledger
from geodm_lightning.networks.pool import NetworkPool
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_seed
from geodm_lightning.types import InputError

History = list[dict[str, float]]


class FittingSettings(NamedTuple):
    """How long and on how much the geometry is fitted; every default is inferred.

    Attributes:
        num_steps: Steps of Adam, each in another network of the pool.
        real_batch: Real images drawn per class, half of them for the centroid; all of a class
            where it has fewer.
        lr: Learning rate of curvatures, weights and temperature.
        log_every: Steps averaged into one entry of the history.
        classes_per_step: Classes whose activations are held at once.
    """

    num_steps: int = 300
    real_batch: int = 64
    lr: float = 0.01
    log_every: int = 10
    classes_per_step: int = 100


def fitted_geometry(
    geometry: ProductManifold,
    *,
    table: ImageTable,
    pool: NetworkPool,
    augmentation: Augmentation,
    settings: FittingSettings,
    folder: Path,
    identity: dict[str, Any],
    seed: int,
    processes: Processes,
) -> History:
    """Fit a geometry and hold it, or read the fit in the cache; the main process makes it.

    Args:
        geometry: Product space as configured; it holds the fit afterwards and learns no more.
        table: Real training images.
        pool: Networks, one per step.
        augmentation: Augmentation of the real images.
        settings: How long, on how much.
        folder: Folder of all fits.
        identity: Plain values that decide the result: data, geometry, network, pool and
            augmentation as configured; images per class, settings and seed are added here.
        seed: Seed of the run.
        processes: Place among the processes of the run.

    Returns:
        What :func:`fit_geometry` returned when the file was made.

    Raises:
        InputError: If nothing is to be learned, a class is too small, or the file is damaged.
    """
    kept = settings._asdict() | {"classes_per_step": None}  # memory only
    whole = {**identity, "images": table.class_counts.tolist(), "settings": kept, "seed": seed}
    path = folder / f"geometry-{name_of(whole)}.ckpt"
    if processes.is_main and not path.is_file():
        history = fit_geometry(
            geometry,
            table=table,
            pool=pool,
            augmentation=augmentation,
            settings=settings,
            seed=seed,
        )
        save_checkpoint(path, {"geometry": geometry.state_dict(), "history": history})
    processes.barrier()
    state = load_checkpoint(path)
    geometry.load_state_dict(state["geometry"])
    geometry.freeze_()
    return list(state["history"])


def fit_geometry(
    geometry: ProductManifold,
    *,
    table: ImageTable,
    pool: NetworkPool,
    augmentation: Augmentation,
    settings: FittingSettings,
    seed: int,
) -> History:
    r"""Fit curvatures and weights to tell the classes of real images apart, then hold them.

    At each step half of the images of a class make its centroid and the other half are given
    to the nearest one, with logits :math:`-d_P^2/\tau`. Cross-entropy is minimised over the
    geometry and :math:`\log\tau`, so stretching all distances gains nothing.

    Args:
        geometry: Product space, changed in place and frozen at the end.
        table: Real training images.
        pool: Networks, one per step.
        augmentation: Augmentation of the real images, one draw per class and step.
        settings: How long and on how much.
        seed: Seed of the run; the draws of a step are keyed by it, ``"fit"`` and the step.

    Returns:
        One entry per ``log_every`` steps and one for the rest: ``step``, mean ``loss`` and
        ``accuracy`` since the last entry, ``temperature`` and the geometry's state.

    Raises:
        InputError: If nothing is to be learned, a class has fewer than two images, or the
            loss is not finite.
    """
    parameters = [p for p in geometry.parameters() if p.requires_grad]
    _check(parameters, table, settings)
    batch, key = settings.real_batch, keyed_seed(seed, "fit")
    source = RealFeatures(table, pool, augmentation, real_batch=batch, seed=key)
    log_temperature = nn.Parameter(torch.zeros_like(parameters[0].flatten()[0]))
    optimizer = torch.optim.Adam([*parameters, log_temperature], lr=settings.lr)
    history: History = []
    rows: list[Tensor] = []
    for step in range(settings.num_steps):
        features = _fetch(source, step, settings.classes_per_step)
        costs = class_costs(geometry, features.to(log_temperature.device))
        if step == 0:
            log_temperature.data.copy_(_best_log_temperature(costs.detach()))
        loss, accuracy = _classify(costs, log_temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        geometry.clamp_()
        rows.append(torch.stack([loss.detach(), accuracy]))
        if (step + 1) % settings.log_every == 0 or step + 1 == settings.num_steps:
            history.append(_entry(step + 1, rows, log_temperature, geometry))
            rows = []
    geometry.skip_vanished_()
    geometry.freeze_()
    return history


def class_costs(geometry: ProductManifold, features: Tensor) -> Tensor:
    """Squared product distances of held-out features to the centroids of all classes.

    Features are divided by one number, their mean norm over all classes, so that classes are
    comparable; matching divides each class by its own.

    Args:
        geometry: Product space.
        features: ``(C, R, d)``; the first half of ``R`` makes the centroids.

    Returns:
        Costs ``(C, R - R // 2, C)``, the last axis being the centroid's class.
    """
    features = at_least_float32(features)
    norm = torch.linalg.vector_norm(features, dim=-1).mean()
    features = features / norm.clamp(min=torch.finfo(features.dtype).eps)
    half = features.shape[1] // 2
    centroids = geometry.centroids(features[:, :half])
    points = geometry.coordinates(features[:, half:])
    terms = [
        factor.squared_distance(*pairwise(own, centroid)[:3])
        for (_, factor, _), own, centroid in zip(
            geometry.active_factors(), points, centroids, strict=True
        )
    ]
    return geometry.weighted_sum(terms)


def _check(parameters: list[nn.Parameter], table: ImageTable, settings: FittingSettings) -> None:
    if not parameters:
        raise InputError(
            "geometry.learning=from_real, but nothing of the geometry is learned; set "
            "geometry.learn_curvature or geometry.learn_weights, or geometry.learning=fixed"
        )
    for name, least in (("num_steps", 1), ("real_batch", 2), ("log_every", 1)):
        if (value := getattr(settings, name)) < least:
            raise InputError(f"{name} of the fit must be at least {least}, got {value}")
    smallest = int(table.class_counts.min())
    if smallest < 2:
        name = table.spec.class_names[int(table.class_counts.argmin())]
        raise InputError(
            f"a fit on real images needs two of every class, '{name}' has {smallest}; use "
            "geometry.learning=joint"
        )


def _fetch(source: RealFeatures, step: int, classes_per_step: int) -> Tensor:
    """Features ``(C, R, d)`` of all classes, embedded a few classes at a time."""
    num_classes = source.table.spec.num_classes
    ledger = Ledger()
    parts = [
        source.fetch(slice(first, min(first + classes_per_step, num_classes)), step, ledger=ledger)
        for first in range(0, num_classes, classes_per_step)
    ]
    return torch.cat(parts).float()


def _classify(costs: Tensor, log_temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of costs ``(C, Q, C)``, scalars."""
    labels = torch.arange(len(costs), device=costs.device)[:, None].expand(costs.shape[:2])
    logits = -costs / log_temperature.exp()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return loss, (costs.argmin(-1) == labels).float().mean()


def _best_log_temperature(costs: Tensor) -> Tensor:
    """The temperature that suits the first costs; curvatures would make up for a worse one."""
    spread = costs.std(-1).mean().clamp(min=torch.finfo(costs.dtype).tiny).log()
    tried = [spread + octave * math.log(2) / 2 for octave in range(-16, 9)]
    return min(tried, key=lambda one: _classify(costs, one)[0].item())


def _entry(
    step: int, rows: list[Tensor], log_temperature: Tensor, geometry: ProductManifold
) -> dict[str, float]:
    loss, accuracy = torch.stack(rows).mean(0).tolist()
    if not math.isfinite(loss):
        raise InputError(
            f"the loss of the geometry fit is not finite at step {step}; lower its learning rate"
        )
    temperature = log_temperature.exp().item()
    measures = {"loss": loss, "accuracy": accuracy, "temperature": temperature}
    return {"step": float(step), **measures, **geometry.state()}
