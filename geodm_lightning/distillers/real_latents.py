"""Latents of real images: encoded once, kept on disk, looked at by every guidance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geodm_lightning.data.table import ImageTable
from geodm_lightning.diffusion.codec import Codec
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator

ENCODED_AT_ONCE = 32  # images; decides memory only


def resized(images: Tensor, resolution: int) -> Tensor:
    """Bring unit-range images ``(n, ch, h, w)`` to square ones, antialiased."""
    size = (resolution, resolution)
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(
        images, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def encode_real(
    table: LatentTable,
    images: ImageTable,
    indices: Tensor,
    *,
    codec: Codec,
    resolution: int,
    processes: Processes,
    device: torch.device,
) -> None:
    """Encode the images that a table of latents still lacks.

    The noise of an image's latent is keyed by the image, so an interrupted encoding goes on
    where it stopped, on any number of processes.

    Args:
        table: Latents ``(C, m, ch, h, w)``.
        images: Real images.
        indices: ``(C, m)`` which of them, class by class.
        codec: Encodes them.
        resolution: Height and width at which they are encoded; others are resized.
        processes: Each process encodes the classes it owns.
        device: Where to compute.

    Raises:
        InputError: If an image cannot be read or a latent is not finite.
    """
    num_classes = len(indices)
    owned = torch.arange(num_classes)[processes.shard(num_classes)]
    waiting = table.missing()[owned].nonzero()
    for first in range(0, len(waiting), ENCODED_AT_ONCE):
        chosen = waiting[first : first + ENCODED_AT_ONCE]
        classes, positions = owned[chosen[:, 0]], chosen[:, 1]
        pictures = resized(images.gather(indices[classes, positions]).to(device), resolution)
        latents = [
            codec.encode(picture[None], generator=keyed_generator(0, "encode", index))
            for picture, index in zip(pictures, indices[classes, positions].tolist(), strict=True)
        ]
        table.write(classes, positions, torch.cat(latents).cpu())
    processes.barrier()
