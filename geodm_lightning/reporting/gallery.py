"""Distilled images on a page, one strip per class, pixel by pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.reporting.page import (
    Markup,
    data_uri,
    element,
    fold,
    join,
    section,
    void_element,
)

SMALLEST, LARGEST = 48, 96  # pixels per side of an image on the page
MAX_CLASSES = 20
MAX_PER_CLASS = 10


def gallery(sets: Mapping[str, DistilledSet], class_names: Sequence[str]) -> list[Markup]:
    """Return the section of a page that shows sets, the first one open; nothing without sets.

    Args:
        sets: Sets by label.
        class_names: Names of the classes, in label order.
    """
    if not sets:
        return []
    parts: list[Markup] = []
    for label, distilled in sets.items():
        strips = _strips(distilled, class_names)
        parts += [element("h3", label), strips] if not parts else [fold(label, strips)]
    return [section("Images", *parts)]


def _strips(distilled: DistilledSet, class_names: Sequence[str]) -> Markup:
    classes = distilled.labels.unique().tolist()
    cells: list[Markup] = []
    for label in classes[:MAX_CLASSES]:
        own = (distilled.labels == label).nonzero().flatten()
        uri = data_uri(strip_png(distilled.unit_images(own[:MAX_PER_CLASS])), "image/png")
        alt = f"{class_names[label]}: {min(len(own), MAX_PER_CLASS)} of {len(own)} images"
        cells += [element("span", class_names[label]), void_element("img", src=uri, alt=alt)]
    note = (
        f"{min(len(classes), MAX_CLASSES)} of {len(classes)} classes, at most {MAX_PER_CLASS} "
        f"of {len(distilled.labels) // len(classes)} images each, as they are stored."
    )
    return join([element("div", *cells, class_="strips"), element("p", note, class_="lead")])


def strip_png(images: Tensor) -> bytes:
    """Return images side by side as PNG bytes, with transparent gaps.

    Args:
        images: ``(n, ch, h, w)`` unit range with 1 or 3 channels; values outside are clamped.
    """
    pixels = images.detach().cpu().float().clamp(0, 1).expand(-1, 3, -1, -1)
    side = pixels.shape[3]
    if side > LARGEST:
        pixels = F.interpolate(pixels, size=(LARGEST, LARGEST), mode="area")
    elif side < SMALLEST:
        pixels = F.interpolate(pixels, scale_factor=-(-SMALLEST // side), mode="nearest")
    opaque = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    gap = max(1, pixels.shape[3] // 12)
    padded = F.pad(opaque, (0, gap))
    strip = padded.permute(2, 0, 3, 1).flatten(1, 2)[:, :-gap]
    buffer = io.BytesIO()
    Image.fromarray((strip * 255).round().to(torch.uint8).numpy()).save(buffer, format="png")
    return buffer.getvalue()
