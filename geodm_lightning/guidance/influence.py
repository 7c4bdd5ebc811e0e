"""Guidance to samples that train a network as real images do: IGD's influence term."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from geodm_lightning.guidance.guidance import (
    WINDOW,
    Guidance,
    normalised,
    root_mean_square,
)
from geodm_lightning.types import DenoisingStep, InputError

SHARE_OF_NOISE = 0.0015  # IGD: size of a push of scale 1, a share of the predicted noise


class InfluenceGuidance(Guidance):
    r"""Aligns what each sample would teach surrogates with what its class teaches them.

    With :math:`g_s` the gradient of the cross-entropy in the parameters of surrogate
    :math:`s`, flattened, of the decoded prediction of the clean sample, and :math:`r_s` that
    of real images of the class,

    .. math::
        L = \frac1S \sum_s \big(1 - \cos(g_s, r_s)\big), \qquad
        push = k \cdot 0.0015\; rms(\epsilon) \sqrt{1 - \bar\alpha}\;
               \frac{\nabla_z L}{rms(\nabla_z L)}

    through decoder and diffusion model. Every sample has parameter gradients of its own. The
    gradients of all surrogates are summed at the images, so decoder and diffusion model are
    differentiated once where IGD's code does it once per surrogate; the result is the same.

    Args:
        surrogates: Networks at several stages of their training that map decoded images to
            logits; they are put in evaluation mode and must allow ``torch.func`` transforms.
        real_gradients: :func:`class_gradients` of each surrogate for ``labels``, ``(n, p)``.
        decode: Differentiable map from latents ``(n, ch, h, w)`` to the images that the
            surrogates take, ``(n, c, height, width)``.
        labels: ``(n,)`` class indices of the classes of this guidance.
        scale: Factor :math:`k`; IGD's 5 for a DiT, 10 to 15 for a fine-tuned one.
        window: See :class:`Guidance`.

    Attributes:
        statistics: Beside the push, ``influence/distance``, :math:`L`.

    Raises:
        InputError: If there is no surrogate or shapes do not fit.

    References:
        Chen et al., "Influence-guided diffusion for dataset distillation", 2025.
    """

    name: ClassVar[str] = "influence"

    def __init__(
        self,
        surrogates: Sequence[nn.Module],
        real_gradients: Sequence[Tensor],
        *,
        decode: Callable[[Tensor], Tensor],
        labels: Tensor,
        scale: float = 5.0,
        window: tuple[float, float] = WINDOW,
    ) -> None:
        super().__init__(scale=scale, window=window)
        if not surrogates or len(surrogates) != len(real_gradients):
            raise InputError(
                f"influence needs surrogates and a real gradient for each, got {len(surrogates)} "
                f"and {len(real_gradients)}"
            )
        for surrogate, real in zip(surrogates, real_gradients, strict=True):
            expected = (len(labels), sum(p.numel() for p in surrogate.parameters()))
            if tuple(real.shape) != expected:
                raise InputError(
                    f"real gradients of a surrogate must have shape {expected}, one row for each "
                    f"label, got {tuple(real.shape)}"
                )
            surrogate.eval()
        self.surrogates = list(surrogates)
        self.real_gradients = [real.detach() for real in real_gradients]
        self.decode = decode
        self.labels = labels

    def needs_graph(self, index: int, num_steps: int) -> bool:
        """Whether the step is guided; see :meth:`Guidance.needs_graph`."""
        return self.guides(index, num_steps)

    def begin(self, memory: Tensor) -> None:
        """Start a round; finished samples play no part."""

    def _direction(self, step: DenoisingStep) -> Tensor:
        if not (step.latents.requires_grad and step.clean.requires_grad):
            raise InputError(
                "influence guidance needs the graph from step.latents to step.clean where "
                "needs_graph says so; the step carries none"
            )
        with torch.enable_grad():
            images = self.decode(step.clean)
        slope, distance = self._slope(images.detach())
        (gradient,) = torch.autograd.grad(images, step.latents, slope)
        self.statistics = {"influence/distance": distance}
        size = SHARE_OF_NOISE * root_mean_square(step.noise.detach())
        size = size * (1 - step.alpha_cumprod) ** 0.5
        return normalised(gradient) * size[:, None, None, None]

    def _slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the mean distances in the images, ``(n, c, height, width)``, and these."""
        total, distances = torch.zeros_like(images), images.new_zeros(len(images))
        num_surrogates = len(self.surrogates)
        for surrogate, real in zip(self.surrogates, self.real_gradients, strict=True):
            with torch.enable_grad():
                pixels = images.clone().requires_grad_()
                taught = sample_gradients(surrogate, pixels, self.labels)
                distance = 1 - functional.cosine_similarity(taught, real, dim=-1)
                (slope,) = torch.autograd.grad(distance.sum(), pixels)
            total += slope
            distances += distance.detach()
        return total / num_surrogates, distances / num_surrogates


def sample_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross-entropy of every image on its own in all parameters of a network.

    Args:
        network: Maps images to logits, every image without the others.
        images: ``(n, c, height, width)``.
        labels: ``(n,)`` class indices.

    Returns:
        ``(n, p)`` gradients, parameters flattened in their order; differentiable in the images.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, weights, (image[None],))
        return functional.cross_entropy(logits, label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)


def class_gradients(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, labels: Tensor
) -> Tensor:
    """Gradient of the mean cross-entropy over the images of each class in all parameters.

    IGD takes 200 real images of each class.

    Args:
        network: Surrogate in evaluation mode.
        batches: Images ``(b, c, height, width)`` as the surrogate takes them, with their class
            indices ``(b,)``; in any order. Images of classes not asked for are left out.
        labels: ``(n,)`` the classes asked for.

    Returns:
        ``(n, p)`` gradients, parameters flattened in their order, on the network's device.

    Raises:
        InputError: If a class has no image.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def loss(weights: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        logits = functional_call(network, weights, (images,))
        return functional.cross_entropy(logits, targets, reduction="sum")

    first = next(iter(parameters.values()))
    totals = first.new_zeros(len(labels), sum(value.numel() for value in parameters.values()))
    counts = [0] * len(labels)
    for images, targets in batches:
        for row, label in enumerate(labels.tolist()):
            chosen = (targets == label).nonzero()[:, 0]
            if len(chosen):
                gradients = grad(loss)(parameters, images[chosen], targets[chosen])
                totals[row] += torch.cat([value.flatten() for value in gradients.values()])
                counts[row] += len(chosen)
    if 0 in counts:
        raise InputError(f"no real image of class {int(labels[counts.index(0)])} was given")
    return totals / totals.new_tensor(counts)[:, None]
