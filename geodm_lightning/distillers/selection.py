"""Choose real images: the baselines of every table."""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import ImageTable
from geodm_lightning.distillers.synthetic import draw_exactly
from geodm_lightning.networks.backbones import Network

EMBEDDING_BATCH = 512


def random_selection(table: ImageTable, *, ipc: int, generator: torch.Generator) -> Tensor:
    """Draw ``ipc`` different real images of every class, all subsets equally likely.

    Args:
        table: Real training images.
        ipc: Images per class.
        generator: Source of the draw, on the CPU.

    Returns:
        Indices, shape ``(num_classes, ipc)``.

    Raises:
        InputError: If a class has fewer images.
    """
    return draw_exactly(table, num_per_class=ipc, generator=generator)


def herding(features: Tensor, *, num: int) -> Tensor:
    """Choose points one by one so that their running mean stays close to the mean of all.

    Args:
        features: Points of one class, shape ``(n, d)``.
        num: Points to choose, at most ``n``.

    Returns:
        Indices in the order chosen, shape ``(num,)``.

    Example:
        >>> herding(torch.tensor([[0.0], [1.0], [5.0], [2.1]]), num=2)
        tensor([3, 1])

    References:
        Welling, "Herding dynamical weights to learn", 2009; Rebuffi et al., iCaRL, 2017.
    """
    mean = features.mean(0)
    total = torch.zeros_like(mean)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for count in range(1, num + 1):
        gaps = ((total + features) / count - mean).square().sum(1)
        index = gaps.masked_fill(taken, torch.inf).argmin()
        taken[index] = True
        total = total + features[index]
        chosen.append(index)
    return torch.stack(chosen)


@torch.inference_mode()
def herding_selection(table: ImageTable, network: Network, *, ipc: int) -> Tensor:
    """Choose ``ipc`` real images of every class by :func:`herding` on network features.

    Args:
        table: Real training images.
        network: Embedding, usually trained on ``table``.
        ipc: Images per class.

    Returns:
        Indices, shape ``(num_classes, ipc)``.
    """
    chosen = []
    for label in range(table.spec.num_classes):
        members = (table.labels == label).nonzero().squeeze(1)
        features = torch.cat(
            [
                network.embed(normalise(table.gather(batch), table.spec)).float()
                for batch in members.split(EMBEDDING_BATCH)
            ]
        )
        chosen.append(members[herding(features, num=ipc)])
    return torch.stack(chosen)
