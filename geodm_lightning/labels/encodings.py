"""How logits are kept: half precision, eight bits, or the largest few; and what that loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from geodm_lightning.types import InputError

Kind = Literal["fp16", "int8", "topk"]
INT8_STEPS = 254  # from -127 to 127
INT16_CLASSES = 2**15


@dataclass(frozen=True)
class Encoding:
    """A way to keep logits ``(n, K)``.

    ``fp16`` keeps every logit in half precision. ``int8`` keeps them in 254 equal steps between
    the smallest and the largest of the row. ``topk`` keeps the largest in half precision with
    their classes; all others are read back as their mean.

    Attributes:
        kind: ``fp16``, ``int8`` or ``topk``.
        num_classes: Number of logits ``K``.
        top_k: Logits kept by ``topk``, None for the other kinds.

    Raises:
        InputError: If the kind is unknown, or ``top_k`` does not go with it.
    """

    kind: Kind
    num_classes: int
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"unknown kind of labels {self.kind!r}: {', '.join(get_args(Kind))}")
        if self.kind != "topk":
            object.__setattr__(self, "top_k", None)
        elif self.top_k is None or not 1 <= self.top_k <= self.num_classes:
            raise InputError(f"top_k must be within 1 and {self.num_classes}, got {self.top_k}")

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the tensors that are written, each with ``n`` rows.

        Args:
            logits: ``(n, K)`` of any floating dtype.

        Raises:
            InputError: If a logit is not finite, or too large for half precision.
        """
        logits = logits.float().cpu()
        if logits.shape[1:] != (self.num_classes,):
            raise InputError(f"logits of {self.num_classes} classes, got {tuple(logits.shape)}")
        largest = logits.abs().max().item() if logits.numel() else 0.0
        limit = torch.finfo(torch.float32 if self.kind == "int8" else torch.float16).max
        if not largest <= limit:
            raise InputError(
                f"teachers answered a logit of {largest}, labels of kind {self.kind} end at "
                f"{limit:g}: check the weights, or use kind=int8"
            )
        if self.kind == "int8":
            low, high = logits.aminmax(dim=1)
            scale = (high - low) / INT8_STEPS
            scale = torch.where(scale > 0, scale, 1.0)
            middle = (high + low) / 2
            codes = ((logits - middle[:, None]) / scale[:, None]).round().clamp(-127, 127)
            return {"codes": codes.to(torch.int8), "middle": middle, "scale": scale}
        if self.top_k is not None:
            values, classes = logits.topk(self.top_k, dim=1)
            num_others = max(self.num_classes - self.top_k, 1)
            others = (logits.double().sum(1) - values.double().sum(1)) / num_others
            small = self.num_classes <= INT16_CLASSES
            classes = classes.to(torch.int16 if small else torch.int32)
            return {"values": values.half(), "classes": classes, "others": others.half()}
        return {"logits": logits.half()}

    def decode(self, encoded: dict[str, Tensor]) -> Tensor:
        """Return float32 logits ``(n, K)`` of encoded rows."""
        if self.kind == "int8":
            scale, middle = encoded["scale"][:, None], encoded["middle"][:, None]
            return encoded["codes"].float() * scale + middle
        if self.kind == "topk":
            others = encoded["others"].float()[:, None].repeat(1, self.num_classes)
            return others.scatter(1, encoded["classes"].long(), encoded["values"].float())
        return encoded["logits"].float()

    def bytes_per_view(self) -> int:
        """Return the bytes that the logits of one view take."""
        row = self.encode(torch.zeros(1, self.num_classes))
        return sum(value.numel() * value.element_size() for value in row.values())


class EncodingError(NamedTuple):
    """What is lost by keeping logits in some encoding.

    Attributes:
        max_error: Largest absolute error of a logit.
        mean_error: Mean absolute error of the logits.
        divergence: Mean KL divergence, in nats, of the softmax of what is read back from the
            softmax of the logits, at temperature 1.
        agreement: Share of the views whose largest logit is of the same class.
    """

    max_error: float
    mean_error: float
    divergence: float
    agreement: float


def error_of(kind: Kind, logits: Tensor, *, top_k: int | None = None) -> EncodingError:
    """Measure what an encoding loses.

    Args:
        kind: ``fp16``, ``int8`` or ``topk``.
        logits: ``(n, K)`` teachers' logits.
        top_k: Logits kept by ``topk``.

    Returns:
        The errors over all rows.
    """
    encoding = Encoding(kind, logits.shape[1], top_k)
    logits = logits.double().cpu()
    read = encoding.decode(encoding.encode(logits)).double()
    error = (read - logits).abs()
    divergence = torch.nn.functional.kl_div(
        read.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean"
    )
    return EncodingError(
        max_error=error.max().item(),
        mean_error=error.mean().item(),
        divergence=divergence.item(),
        agreement=(read.argmax(1) == logits.argmax(1)).double().mean().item(),
    )


def bytes_estimate(
    kind: Kind, *, num_views: int, num_classes: int, num_epochs: int, top_k: int | None = None
) -> int:
    """Return the bytes that a store of labels takes, less a kilobyte of headers per epoch.

    Args:
        kind: ``fp16``, ``int8`` or ``topk``.
        num_views: Views per epoch, one of every image.
        num_classes: Number of logits.
        num_epochs: Epochs with labels of their own.
        top_k: Logits kept by ``topk``.

    Example:
        Ten images of each of ImageNet's classes, 300 epochs:

        >>> bytes_estimate("fp16", num_views=10_000, num_classes=1000, num_epochs=300)
        6000000000
    """
    return Encoding(kind, num_classes, top_k).bytes_per_view() * num_views * num_epochs
