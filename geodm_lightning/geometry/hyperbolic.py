r"""Hyperbolic space in the Lorentz model."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from geodm_lightning.geometry.curved import Curved, weighted_mean
from geodm_lightning.geometry.manifold import at_least_float32


class Hyperbolic(Curved):
    r"""Hyperbolic space of curvature ``-magnitude``.

    Ambient coordinates are those of the Lorentz model, time first, on
    :math:`-x_0^2 + \|x_{1:}\|^2 = -1/c`. See :class:`Curved` for the arguments. Radii are
    held at 32 radii of curvature, where ``sinh^2`` is about 1e27 and float32 still holds it.
    """

    sign: ClassVar[float] = -1.0
    max_angle: ClassVar[float] = 32.0

    @staticmethod
    def sn(x: Tensor) -> Tensor:
        """``sinh``."""
        return torch.sinh(x)

    @staticmethod
    def cs(x: Tensor) -> Tensor:
        """``cosh``."""
        return torch.cosh(x)

    @staticmethod
    def arcsn(x: Tensor) -> Tensor:
        """``asinh``."""
        return torch.asinh(x)

    def logmap0(self, x: Tensor) -> Tensor:
        """Normal coordinates ``(..., d)`` of Lorentz coordinates ``(..., d + 1)``."""
        spatial = at_least_float32(x)[..., 1:]
        reach = self.sqrt_magnitude * torch.linalg.vector_norm(spatial, dim=-1, keepdim=True)
        safe = torch.where(reach > 0, reach, 1)
        return torch.where(reach > 0, torch.asinh(safe) / safe, 1) * spatial

    def centroid(self, u: Tensor) -> Tensor:
        r"""Lorentz centroid: the mean of the ambient coordinates, scaled back to the model.

        Its direction is the spatial mean :math:`m_s`, its radius
        :math:`\mathrm{artanh}(\|m_s\|/m_0)/\sqrt c`. Far from the origin
        :math:`m_0 - \|m_s\|` is the small difference of large numbers; see
        :func:`mean_shortfall`.

        Args:
            u: Normal coordinates, shape ``(..., n, d)``.

        Returns:
            Normal coordinates of the centroid, shape ``(..., d)``.

        References:
            Law et al., "Lorentzian distance learning for hyperbolic representations", 2019.
        """
        u = at_least_float32(u)
        radius = torch.linalg.vector_norm(u, dim=-1)
        angle = self.sqrt_magnitude * radius
        stretch = self.sqrt_magnitude * self._ratio(angle)  # sinh(angle) / radius
        mean = weighted_mean(u, stretch)
        length = torch.linalg.vector_norm(mean, dim=-1)
        away = length > 0
        direction = mean / torch.where(away, length, 1)[..., None]

        held = angle.clamp(max=self.max_angle)
        shortfall = mean_shortfall(u, radius, direction, stretch=stretch, angle=held)
        log_ratio = torch.log1p(2 * length / shortfall) / 2
        scale = torch.where(away, log_ratio / torch.where(away, length, 1), 1 / shortfall)
        return mean * (scale / self.sqrt_magnitude)[..., None]

    def lift(self, radius: Tensor) -> tuple[Tensor, Tensor | None]:
        """Lead to the spatial Lorentz coordinates; see :meth:`Manifold.lift`.

        The time coordinate is left out: it is a function of the spatial ones.
        """
        return self._ratio(self.sqrt_magnitude * radius), None


def mean_shortfall(
    u: Tensor, radius: Tensor, direction: Tensor, *, stretch: Tensor, angle: Tensor
) -> Tensor:
    r"""How much longer the mean Lorentz point is in time than in space.

    Summed from the non-negative shares :math:`e^{-\alpha} + \sinh(\alpha)(1 - \cos)` of the
    points, so nothing large is subtracted.

    Args:
        u: Normal coordinates, shape ``(..., n, d)``.
        radius: Their lengths, shape ``(..., n)``.
        direction: Unit vector along the spatial mean, shape ``(..., d)``.
        stretch: ``sinh(angle) / radius``, shape ``(..., n)``.
        angle: Lengths in radii of curvature, shape ``(..., n)``.

    Returns:
        Time less spatial length of the mean at unit curvature, shape ``(...,)``.
    """
    lifted = radius > 0
    slack = _OffTheRay.apply(u, radius, direction) / (2 * torch.where(lifted, radius, 1))
    if u.requires_grad:  # at the origin only the slope is left
        with torch.autocast(device_type=u.device.type, enabled=False):
            behind = -(direction[..., None, :] @ u.mT)[..., 0, :]
        slack = torch.where(lifted, slack, behind)
    return (torch.exp(-angle) + stretch * slack).mean(-1)


class _OffTheRay(torch.autograd.Function):
    """Squared lengths of ``u - radius * direction``: the difference is made, its gradient is not.

    The gradient by the direction is a weighted mean of the points. Made operation by operation it
    would be several passes over all their coordinates.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, radius: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(u, radius, direction)
        with torch.autocast(device_type=u.device.type, enabled=False):
            off = torch.addcmul(u, radius[..., None], direction[..., None, :], value=-1)
        return torch.linalg.vector_norm(off, dim=-1).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, radius, direction = ctx.saved_tensors
        push = 2 * gradients[0]
        of_u = of_radius = of_direction = None
        if ctx.needs_input_grad[0]:
            of_u = push[..., None] * (u - radius[..., None] * direction[..., None, :])
        if ctx.needs_input_grad[1]:
            along = (u * direction[..., None, :]).sum(-1)
            of_radius = push * (radius * direction.square().sum(-1, keepdim=True) - along)
        if ctx.needs_input_grad[2]:
            share = push * radius
            with torch.autocast(device_type=u.device.type, enabled=False):
                whole = (share[..., None, :] @ u)[..., 0, :]
            of_direction = (share * radius).sum(-1, keepdim=True) * direction - whole
        return of_u, of_radius, of_direction
