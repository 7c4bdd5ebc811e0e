"""Images of a run as an audit sees them: as pixels and as features, real ones class by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning import assembly
from geodm_lightning.assembly.options import capped
from geodm_lightning.audit.options import AuditOptions
from geodm_lightning.data.normalise import normalise
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.distillers.real_features import embed_in_chunks
from geodm_lightning.methods import Method
from geodm_lightning.networks.network import Network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.stages.run import Run

SIDE = 64  # pixels per side at most that are compared; larger images are averaged down to it
USUAL = 500  # real images that tell which distance is usual
AT_ONCE = 512  # images fetched at once; decides memory only


class Seen(NamedTuple):
    """Images as they are compared.

    Attributes:
        pixels: ``(n, p)`` unit-range pixels, averaged down to at most 64 × 64.
        features: ``(n, d)`` features before the last layer of the network.
        labels: ``(n,)`` their classes.
    """

    pixels: Tensor
    features: Tensor
    labels: Tensor


class RealClass(NamedTuple):
    """The real images of one class that are compared.

    Attributes:
        label: The class.
        indices: ``(n,)`` their indices in the training table, on the device.
        seen: The images.
    """

    label: int
    indices: Tensor
    seen: Seen


def feature_network(run: Run, options: AuditOptions) -> Network:
    """Return the network whose features are compared, in eval mode; all processes ask together.

    It is of the architecture that the run matches in, trained on the real images for a capped
    number of steps, or fresh.
    """
    if options.features == "random":
        build = assembly.network_builder(run.settings["network"], run.data.spec)
        return build(keyed_generator(run.seed, "audit", "network")).to(run.site.device).eval()
    return assembly.herding_network(training_settings(run.settings, options), run.data, run.site)


def training_settings(settings: dict[str, Any], options: AuditOptions) -> dict[str, Any]:
    """Return settings under which the network of the features is trained."""
    schedule = dict(settings["schedule"])
    if options.max_steps is not None:
        schedule["max_pretrain_steps"] = capped(options.max_steps, schedule["max_pretrain_steps"])
    return {**settings, "schedule": schedule}


def decoded_set(run: Run, row: Method) -> DistilledSet:
    """Return the images of a row that students see, mosaics cut."""
    return load_set(run.folder.distilled(row.key, is_main=row.is_main)).decode()


@torch.inference_mode()
def seen_set(run: Run, distilled: DistilledSet, network: Network) -> Seen:
    """Return a decoded set as it is compared."""
    parts = []
    for some in torch.arange(len(distilled.labels)).split(AT_ONCE):
        parts.append(_seen(run, distilled.unit_images(some).to(run.site.device), network))
    pixels, features = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Seen(pixels, features, distilled.labels.to(run.site.device))


@torch.inference_mode()
def real_classes(run: Run, network: Network, options: AuditOptions) -> Iterator[RealClass]:
    """Yield the real training images of every class, one class in memory at a time."""
    table = run.data.train
    first = 0
    for label, count in enumerate(table.class_counts.tolist()):
        generator = keyed_generator(run.seed, "audit", "real", label)
        chosen = torch.randperm(count, generator=generator)[: options.real_per_class]
        indices = first + chosen.sort().values
        first += count
        parts = [_seen(run, table.gather(some), network) for some in indices.split(AT_ONCE)]
        pixels, features = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        indices = indices.to(pixels.device)
        yield RealClass(label, indices, Seen(pixels, features, torch.full_like(indices, label)))


@torch.inference_mode()
def usual_images(run: Run, network: Network) -> tuple[Seen, Tensor]:
    """Draw real images of every class, whose nearest other one tells which distance is usual.

    Returns:
        The images, and ``(r,)`` their indices in the training table, on the device.
    """
    per_class = max(1, USUAL // run.data.spec.num_classes)
    generator = keyed_generator(run.seed, "audit", "usual")
    indices = run.data.train.draw(per_class, generator=generator).flatten()
    parts = [_seen(run, run.data.train.gather(some), network) for some in indices.split(AT_ONCE)]
    pixels, features = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    indices = indices.to(pixels.device)
    return Seen(pixels, features, run.data.train.labels[indices]), indices


def _seen(run: Run, images: Tensor, network: Network) -> tuple[Tensor, Tensor]:
    features = embed_in_chunks(network, normalise(images, run.data.spec)).float()
    side = images.shape[-1]
    small = images if side <= SIDE else F.interpolate(images, size=(SIDE, SIDE), mode="area")
    return small.flatten(1), features
