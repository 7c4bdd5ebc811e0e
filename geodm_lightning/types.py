"""Named tuples and errors that cross rooms; no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """A mistake of the caller: one line that names the value and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


class DatasetSpec(NamedTuple):
    """What is known about a data set without opening it.

    Attributes:
        name: Identifier used by ``data=NAME``.
        num_classes: Number of classes.
        channels: Colour channels of an image, 1 or 3.
        resolution: Height and width of an image in pixels (images are square).
        mean: Per-channel mean of the unit-range pixels, used for normalisation.
        std: Per-channel standard deviation of the unit-range pixels.
        class_names: Names in label order.
        licence: Licence of the images, recorded in every set distilled from them.
        flip: Whether a mirrored image keeps its class (false for digits).
    """

    name: str
    num_classes: int
    channels: int
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    licence: str
    flip: bool


class LabelledImages(NamedTuple):
    """Images with their class indices.

    Attributes:
        images: ``(N, channels, height, width)``; what pixel range is said by the owner.
        labels: ``(N,)`` int64 class indices.
    """

    images: Tensor
    labels: Tensor


class MatchingTerms(NamedTuple):
    """Loss of a matching step, one value per class.

    Attributes:
        shares: Differentiable summands of the loss, ``(C,)`` each, by the component of the
            program that computes them: ``"geometry"``, and ``"transport"`` where there is any.
        parts: Detached named terms of shape ``(C,)`` before they are weighted, for logging.
    """

    shares: dict[str, Tensor]
    parts: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Differentiable sum of all weighted terms, ``(C,)``."""
        first, *others = self.shares.values()
        return sum(others, start=first)


class DenoisingStep(NamedTuple):
    """What is known of a batch of samples at one step of their denoising.

    Latents are in the scale in which the diffusion model runs (unit variance, roughly).

    Attributes:
        index: Position in the respaced schedule, from ``num_steps - 1`` (noise) down to 0.
        num_steps: Steps of the respaced schedule.
        latents: ``(n, ch, h, w)`` noisy samples this step starts from.
        clean: ``(n, ch, h, w)`` the model's prediction of the clean samples.
        noise: ``(n, ch, h, w)`` the model's prediction of the noise in them.
        alpha_cumprod: Share of the clean signal's variance in ``latents``, in (0, 1).
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no one wants here
    num_steps: int
    latents: Tensor
    clean: Tensor
    noise: Tensor
    alpha_cumprod: float
