"""What a student learns from beside the images: classes, answers of teachers, their geometry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from geodm_lightning.matching.logits import logit_transport
from geodm_lightning.types import InputError

Teachers = Literal["aligned", "all", "own"]
WEIGHTS = ("ce", "mse", "kl", "transport")


@dataclass(frozen=True)
class Supervision:
    r"""The loss of a student.

    .. math::
        \kappa_1\, CE + \kappa_2 \lVert s - t \rVert^2 / K
            + \kappa_3\, KL(\sigma(t/T) \,\|\, \sigma(s/T)) + \beta_2\, OT(s, t)

    Without teachers the cross-entropy is mixed between the classes of an image and of the patch
    it carries. With teachers it is of the image's own class alone, as in EDC: the teachers have
    seen the patch. Labels of whole images have not: every term is then mixed between those of
    the image and of the patch. Soft cross-entropy, as in DATM, has the gradient of the
    divergence at temperature 1.

    Attributes:
        name: Short name, such as ``"lia_otm"``.
        label: Name shown to readers.
        ce: Weight of the cross-entropy; 0.025 beside teachers (EDC).
        mse: Weight of the mean squared difference of logits, over images and classes; 1 in EDC.
        kl: Weight of the divergence from the teachers, a mean over images; 1 in RDED and SRe2L,
            where it is not multiplied by the squared temperature.
        kl_temperature: Temperature ``T`` of that divergence.
        transport: Weight of :func:`~geodm_lightning.matching.logits.logit_transport`; 0.001 in
            SinKD (that the paper takes it over is inferred).
        transport_temperature: Its temperature.
        epsilon: Its entropic temperature.
        num_iters: Its rounds.
        teachers: ``"aligned"`` for as many as the images per class ask for (LIA), ``"all"`` for
            the whole pool, ``"own"`` for soft labels that came with the set, None for hard labels.

    Raises:
        InputError: If a number is out of range, or teachers are asked but not listened to, or
            listened to but not asked.

    References:
        Shao et al., "Elucidating the design space of dataset condensation", 2024;
        Sun et al., "On the diversity and realism of distilled dataset", 2024 (RDED).
    """

    name: str
    label: str
    ce: float = 1.0
    mse: float = 0.0
    kl: float = 0.0
    kl_temperature: float = 20.0
    transport: float = 0.0
    transport_temperature: float = 2.0
    epsilon: float = 0.1
    num_iters: int = 20
    teachers: Teachers | None = None

    def __post_init__(self) -> None:
        for name in (*WEIGHTS, "kl_temperature", "transport_temperature", "epsilon"):
            value, is_weight = getattr(self, name), name in WEIGHTS
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0 or (value == 0 < 1 - is_weight):
                least = "a number from 0" if is_weight else "a positive number"
                raise InputError(f"supervision.{self.name}.{name} must be {least}, got {value!r}")
        if isinstance(self.num_iters, bool) or not isinstance(self.num_iters, int):
            raise InputError(f"supervision.{self.name}.num_iters must be whole: {self.num_iters!r}")
        if self.num_iters < 1:
            raise InputError(f"supervision.{self.name}.num_iters must be at least 1")
        if self.teachers is not None and self.teachers not in get_args(Teachers):
            raise InputError(
                f"supervision.{self.name}.teachers is {self.teachers!r}; use aligned, all, "
                "own or null"
            )
        self._check_weights()

    def _check_weights(self) -> None:
        listens = self.mse + self.kl + self.transport > 0
        if listens != self.needs_labels:
            raise InputError(
                f"supervision.{self.name} has teachers {self.teachers} with mse {self.mse:g}, kl "
                f"{self.kl:g} and transport {self.transport:g}; set teachers to aligned, all or "
                "own where one of these is above 0, to null where none is"
            )
        if self.teachers == "own" and self.transport:
            raise InputError(
                f"supervision.{self.name}.transport couples a batch of views that teachers have "
                "labelled; set it to 0 where labels are own"
            )
        if not listens and not self.ce:
            raise InputError(f"supervision.{self.name} has no weight above 0; set ce to 1")

    @property
    def needs_labels(self) -> bool:
        """Whether a student must be told what teachers answer."""
        return self.teachers is not None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Supervision:
        """Build a supervision from the fields written by :meth:`to_dict`.

        Raises:
            InputError: If a field is missing, unknown or out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"a supervision is a table of fields, got {values!r}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"supervision fields do not fit ({error}); evaluate again") from error

    def digest(self, labels: str = "") -> str:
        """Return 16 hexadecimal digits that differ when a student would learn otherwise.

        Args:
            labels: Identity of the labels that the teachers give, if any.

        Returns:
            The digest; empty for plain hard labels, whose records lie under their old names.
        """
        numbers = {k: v for k, v in self.to_dict().items() if k not in ("name", "label")}
        if numbers == {k: v for k, v in HARD.to_dict().items() if k in numbers} and not labels:
            return ""
        text = json.dumps([numbers, labels], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


HARD = Supervision("hard", "Hard labels")


class StudentBatch(NamedTuple):
    """Views of a batch of images, with what is known of them.

    Attributes:
        images: ``(n, ch, r, r)`` normalised views.
        labels: ``(n,)`` classes of the images.
        partner_labels: ``(n,)`` classes of the images their patches are from.
        shares: ``(n,)`` float32 share of each view's area that is the image's own.
        logits: ``(n, K)`` what the teachers answer to the views, None without teachers; labels
            of the whole images where ``partner_logits`` are there too.
        partner_logits: ``(n, K)`` labels of the whole images that the patches are from.
    """

    images: Tensor
    labels: Tensor
    partner_labels: Tensor
    shares: Tensor
    logits: Tensor | None
    partner_logits: Tensor | None = None


def student_loss(logits: Tensor, batch: StudentBatch, supervision: Supervision) -> Tensor:
    """Compute the loss of a student's answers.

    Args:
        logits: ``(n, K)`` answers of the student.
        batch: What they answer to.
        supervision: Weights of the terms.

    Returns:
        Scalar loss; its terms are means over the batch, but for transport, which is a sum.

    Raises:
        InputError: If the supervision needs answers of teachers and the batch has none.
    """
    logits, s = logits.float(), supervision
    if not s.needs_labels:
        own = F.cross_entropy(logits, batch.labels, reduction="none")
        other = F.cross_entropy(logits, batch.partner_labels, reduction="none")
        return s.ce * (batch.shares * own + (1 - batch.shares) * other).mean()
    if batch.logits is None:
        raise InputError(f"supervision {s.name} needs labels of teachers; run the stage relabel")
    if batch.partner_logits is None:
        return _taught(logits, batch.labels, batch.logits.float(), s, torch.ones_like(batch.shares))
    own = _taught(logits, batch.labels, batch.logits.float(), s, batch.shares)
    partner = batch.partner_logits.float()
    return own + _taught(logits, batch.partner_labels, partner, s, 1 - batch.shares)


def _taught(
    logits: Tensor, labels: Tensor, teacher: Tensor, s: Supervision, shares: Tensor
) -> Tensor:
    """Return what a student loses to teachers: a mean over images weighted by their shares."""
    loss = logits.new_zeros(())
    if s.ce:
        own = F.cross_entropy(logits, labels, reduction="none")
        loss = loss + s.ce * (shares * own).mean()
    if s.mse:
        loss = loss + s.mse * (shares * (logits - teacher).square().mean(1)).mean()
    if s.kl:
        answers = F.log_softmax(logits / s.kl_temperature, dim=1)
        wanted = F.log_softmax(teacher / s.kl_temperature, dim=1)
        apart = F.kl_div(answers, wanted, log_target=True, reduction="none").sum(1)
        loss = loss + s.kl * (shares * apart).mean()
    if s.transport:
        loss = loss + s.transport * logit_transport(
            logits,
            teacher,
            temperature=s.transport_temperature,
            epsilon=s.epsilon,
            num_iters=s.num_iters,
        )
    return loss
