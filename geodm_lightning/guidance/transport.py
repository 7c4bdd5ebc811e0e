"""Guidance by optimal transport between the samples of a class and its real latents."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from geodm_lightning.guidance.ground import AbsoluteGround, GroundCost
from geodm_lightning.guidance.guidance import WINDOW, Guidance, check_memory, normalised
from geodm_lightning.transport.coupling import relative_entropy
from geodm_lightning.transport.sinkhorn import sinkhorn
from geodm_lightning.types import DenoisingStep, InputError

VARIABLES = ("latent", "clean")


class TransportGuidance(Guidance):
    r"""Moves each sample to where the samples of its class leave real latents uncovered.

    With :math:`z_1 \dots z_{n-1}` finished, :math:`z_n` the current sample and :math:`P` the
    entropic plan between these, each of mass :math:`1/n`, and the real latents :math:`y_j`,

    .. math::
        G_W = \sum_{ij} P_{ij}\, C(z_i, y_j), \qquad
        push = \beta\, \frac{g}{rms(g)}, \quad
        g = n \nabla_{z_n} G_W = n \sum_j P_{nj} \nabla C(z_n, y_j)

    Known of the method (arXiv 2512.00308): the cumulative set, the absolute cost, Sinkhorn's
    plan, that :math:`G_W` is a function of the noisy latent. Inferred: all numbers, costs in
    units of their mean, uniform masses, the plan held fixed (the envelope theorem), the factor
    ``n`` and bringing the gradient to unit root mean square. The first sample of a class has
    no one to share with: its plan is uniform and it is drawn to the median of each coordinate.

    Args:
        real: Real latents of each class, ``(n_classes, m, ch, h, w)``, on the device of the
            samples and in their scale.
        scale: Root mean square of the push, :math:`\beta`; without ``normalise``, factor of
            the gradient.
        epsilon: Entropic temperature in units of the mean cost.
        num_iters: Sinkhorn iterations.
        window: See :class:`Guidance`.
        through: ``latent``, the cost is that of the noisy latent; or ``clean``, that of the
            model's prediction of the clean one, its noise held fixed.
        ground: Cost between latents; :class:`AbsoluteGround` when omitted.
        normalise: Whether each gradient is brought to unit root mean square, also where it
            nearly cancels. Otherwise the push is ``scale * g``, where ``through="clean"``
            multiplies ``g`` by the :math:`1/\sqrt{\bar\alpha}` of the chain rule, 7 to 71 in
            the window.

    Attributes:
        statistics: Beside the push: ``transport/plan_entropy``, entropy of where the current
            sample is sent over that of the uniform plan, in [0, 1]: near 1, guidance is a pull
            to the class's median; ``transport/marginal_error``, mass by which the plan is off;
            ``transport/cost``, :math:`G_W`.

    Raises:
        InputError: If a number or a shape does not fit.

    Example:
        Finished sample and current one share two real latents: the current one is sent to 1.

        >>> real = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1, 1)
        >>> guidance = TransportGuidance(real, scale=0.1, window=(0, 1))
        >>> guidance.begin(torch.full((1, 1, 1, 1, 1), -0.9))
        >>> z = torch.zeros(1, 1, 1, 1)
        >>> z - guidance.push(DenoisingStep(5, 10, z, z, z, 0.5))
        tensor([[[[0.1000]]]])
    """

    name: ClassVar[str] = "transport"

    def __init__(
        self,
        real: Tensor,
        *,
        scale: float = 0.02,
        epsilon: float = 0.02,
        num_iters: int = 50,
        window: tuple[float, float] = WINDOW,
        through: str = "latent",
        ground: GroundCost | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__(scale=scale, window=window)
        _check(real, epsilon=epsilon, num_iters=num_iters, through=through)
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.through = through
        self.normalise = normalise
        self.ground: GroundCost = AbsoluteGround() if ground is None else ground
        self._shape = (real.shape[0], *real.shape[2:])
        flat = real.detach().flatten(2).to(torch.promote_types(real.dtype, torch.float32))
        self._unit = self.ground.unit(flat)
        self._real = flat / self._unit[:, None, None]
        self._memory_cost = flat.new_empty(flat.shape[0], 0, flat.shape[1])

    def begin(self, memory: Tensor) -> None:
        """Start a round: costs of the finished samples are computed here, once.

        Args:
            memory: ``(n, k, ch, h, w)`` finished samples of each class.

        Raises:
            InputError: If classes or the shape of a sample differ from those of ``real``.
        """
        check_memory(memory, self._shape)
        self._memory_cost = self.ground.cost(self._scaled(memory.flatten(2)), self._real)

    def _direction(self, step: DenoisingStep) -> Tensor:
        current = step.latents if self.through == "latent" else step.clean
        if tuple(current.shape) != self._shape:
            raise InputError(
                f"samples must have the shape {self._shape} of the classes of this guidance, got "
                f"{tuple(current.shape)}"
            )
        flat = self._scaled(current.flatten(1)[:, None])
        cost = torch.cat([self._memory_cost, self.ground.cost(flat, self._real)], dim=1)
        mean_cost = cost.mean((-2, -1)).clamp(min=torch.finfo(cost.dtype).tiny)
        solution = sinkhorn(cost, epsilon=self.epsilon * mean_cost, num_iters=self.num_iters)
        share = solution.plan[:, -1] * cost.shape[1]  # of the current sample, a mass of 1
        going = share / share.sum(-1, keepdim=True)  # where the current sample is sent
        self.statistics = {
            "transport/plan_entropy": relative_entropy(going[:, None]),
            "transport/marginal_error": solution.marginal_error,
            "transport/cost": (solution.plan * cost).sum((-2, -1)),
        }
        gradient = self.ground.gradient(flat[:, 0], self._real, share)
        if self.normalise:
            gradient = normalised(gradient)  # what is common to a row cancels, the chain rule too
        else:
            chain = 1.0 if self.through == "latent" else step.alpha_cumprod**-0.5
            gradient = gradient * (chain / self._unit[:, None])
        return gradient.reshape(current.shape)

    def _scaled(self, latents: Tensor) -> Tensor:
        """Latents ``(n, k, d)`` in the unit of the ground cost, without gradient."""
        return latents.detach().to(self._real.dtype) / self._unit[:, None, None]


def _check(real: Tensor, *, epsilon: float, num_iters: int, through: str) -> None:
    """Refuse numbers and real latents that do not fit."""
    if not 0 < epsilon < math.inf:
        raise InputError(f"epsilon must be positive and finite, got {epsilon}")
    if num_iters < 1:
        raise InputError(f"num_iters must be at least 1, got {num_iters}")
    if through not in VARIABLES:
        raise InputError(f"through must be one of {', '.join(VARIABLES)}, got {through!r}")
    if real.dim() != 5 or 0 in real.shape:
        raise InputError(
            "real must hold latents (classes, m, channels, height, width), at least one of "
            f"each class, got {tuple(real.shape)}"
        )
