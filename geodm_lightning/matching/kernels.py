"""Matching in reproducing kernel spaces: M3D and its product form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.covariances import outer_gap
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError

KERNELS = ("gaussian", "linear", "polynomial", "laplace")
_NUM_BANDWIDTHS = 5  # M3D: the mean squared distance times 1/4, 1/2, 1, 2, 4
_LAPLACE_RATES = (0.1, 1.0, 5.0)  # M3D


class _Balance(NamedTuple):
    """Size of a loss beside DM's: ``at_reference * (norm / reference_norm)^power``.

    Measured on 10 classes of CIFAR-10, 256 real and 40 synthetic images each, by random
    ConvNets-3 of width 128 in the product of all three spaces: 30 times this times transport
    has 20 % of the gradient of the loss, DM's own being at 23 %.
    """

    at_reference: float
    power: int


_BALANCES = {
    "gaussian": _Balance(0.0043, 0),  # 0.0049 on 1/f noise
    "linear": _Balance(1.0, 2),  # it is DM
    "polynomial": _Balance(890.0, 4),  # 820 on 1/f noise
    "laplace": _Balance(6.7e-7, 0),  # 4e-11 on 1/f noise: next to no gradient, on anything
}


class KernelMatching(nn.Module):
    r"""Squared maximum mean discrepancy of real and synthetic features, as in M3D.

    .. math:: \sum_g w_g \left( mean\,K_g(s, s) - 2\, mean\,K_g(r, s) + mean\,K_g(r, r) \right)

    biased, the diagonals included. With :math:`m` the scale taken out by
    :func:`scale_features`, :math:`d_g` the distance and :math:`\varphi_g` the embedding of
    factor :math:`g`, the kernels are M3D's in the unit of the unscaled features:

    - ``gaussian``: :math:`\sum_{k=-2}^{2} \exp(-d_g^2 / (2^k b_g))`, with :math:`b_g` the
      mean squared distance of two different samples of real and synthetic features pooled,
      without gradient. Free of scale.
    - ``linear``: :math:`m^2 \langle\varphi_g, \varphi_g'\rangle`, which is DM.
    - ``polynomial``: :math:`(m^2 \langle\varphi_g, \varphi_g'\rangle + 1)^2`.
    - ``laplace``: :math:`\sum_\gamma \exp(-\gamma m^2 d_g^2)`, :math:`\gamma = 0.1, 1, 5`.
      These widths are fixed: at the feature norm of a random ConvNet-3 no two samples are
      near enough for any of them, and the loss has next to no gradient.

    The form on the product, geodesic distances and embeddings in place of flat ones, is
    inferred. On curved spaces a Gaussian of the geodesic distance need not be positive
    definite (Feragen et al., 2015), whatever its width: the result is then no squared norm
    in any space of functions, it may dip below zero, and it may vanish for sets that differ.
    It is still smooth, and zero for equal sets.

    Args:
        kernel: One of ``KERNELS``.
        reference_norm: Feature norm at which the other terms of GeoDM were weighed against
            this one: that of a random ConvNet-3 of width 128 on 32×32 pixels.

    Raises:
        InputError: If the kernel is unknown or ``reference_norm`` is not positive.

    References:
        Zhang et al., "M3D: dataset condensation by minimizing maximum mean discrepancy", 2024.
        Feragen, Lauze and Hauberg, "Geodesic exponential kernels", 2015.
    """

    min_synthetic: ClassVar[int] = 1

    def __init__(self, kernel: str = "gaussian", reference_norm: float = 24.7) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise InputError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
        if not 0 < reference_norm < math.inf:
            raise InputError(f"reference_norm must be positive, got {reference_norm}")
        self.kernel = kernel
        self.reference_norm = reference_norm

    def magnitude(self, features: ScaledFeatures) -> Tensor:
        """Size of the loss of each class ``(C,)`` relative to DM's on its reference network.

        For the Gaussian kernel, whose loss is around 0.09, it is 0.0043 whatever the network.
        """
        balance = _BALANCES[self.kernel]
        return balance.at_reference * (features.norm / self.reference_norm) ** balance.power

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of each class.

        The kernel among real features has a graph only where a curvature or a head is learned.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            generator: Not drawn from: kernels have no randomness.

        Returns:
            Losses of shape ``(C,)``: without unit for the distance kernels, in the squared
            unit of the unscaled features for the linear one, in its fourth power for the
            polynomial one.
        """
        if self.kernel in ("gaussian", "laplace"):
            terms = self._of_distances(features, geometry)
        else:
            terms = self._of_inner_products(features, geometry)
        weights = [weight for _, _, weight in geometry.active_factors()]
        return torch.stack([w * t for w, t in zip(weights, terms, strict=True)]).sum(0)

    def _of_distances(self, features: ScaledFeatures, geometry: ProductManifold) -> list[Tensor]:
        """Discrepancy ``(C,)`` on each factor, from its squared distances."""
        real, synthetic = features.real, features.synthetic
        pairs = [(real, real), (real, synthetic), (synthetic, synthetic)]
        costs = zip(*(_factor_costs(u, v, geometry) for u, v in pairs), strict=True)
        if self.kernel == "gaussian":
            return [mmd2(*gaussian_kernel(own)) for own in costs]
        squared_norm = features.norm.square()[..., None, None]
        return [mmd2(*(laplace_kernel(squared_norm * cost) for cost in own)) for own in costs]

    def _of_inner_products(
        self, features: ScaledFeatures, geometry: ProductManifold
    ) -> list[Tensor]:
        """Discrepancy ``(C,)`` on each factor, from its embedding in the unit of the features.

        Both kernels are written by what they compare, so that nothing large is subtracted:
        the linear one means, :math:`(k + 1)^2 = k^2 + 2k + 1` also second moments.
        """
        unit, gaps = features.norm[..., None, None], []
        coordinates = zip(
            geometry.active_factors(),
            geometry.coordinates(features.real),
            geometry.coordinates(features.synthetic),
            strict=True,
        )
        for (_, factor, _), u, v in coordinates:
            real, synthetic = unit * factor.embed(u), unit * factor.embed(v)
            gap = (real.mean(-2) - synthetic.mean(-2)).square().sum(-1)
            if self.kernel == "polynomial":
                count_r, count_s = real.shape[-2], synthetic.shape[-2]
                second = outer_gap(real / math.sqrt(count_r), synthetic / math.sqrt(count_s))
                gap = second + 2 * gap
            gaps.append(gap)
        return gaps


def mmd2(real_real: Tensor, real_synthetic: Tensor, synthetic_synthetic: Tensor) -> Tensor:
    """Biased squared maximum mean discrepancy from kernel values.

    Args:
        real_real: Kernel among real samples, ``(..., R, R)``.
        real_synthetic: Kernel across, ``(..., R, S)``.
        synthetic_synthetic: Kernel among synthetic samples, ``(..., S, S)``.

    Returns:
        Values of shape ``(...,)``; not negative where the kernel is positive definite.
    """
    across = real_synthetic.mean((-2, -1))
    return real_real.mean((-2, -1)) - 2 * across + synthetic_synthetic.mean((-2, -1))


def gaussian_kernel(costs: Sequence[Tensor]) -> list[Tensor]:
    """Sum of five Gaussians around the mean squared distance of the pooled samples.

    Every width is twice the one before, so each Gaussian is the square of the next and one
    exponential serves all five.

    Args:
        costs: Squared distances ``(..., R, R)``, ``(..., R, S)`` and ``(..., S, S)``.

    Returns:
        Kernel values of the same shapes; the mean is a constant to the gradient.
    """
    width = 2 ** (_NUM_BANDWIDTHS // 2) * _pooled_mean(costs)[..., None, None]
    return [_squared_repeatedly(torch.exp(-cost / width)) for cost in costs]


def laplace_kernel(cost: Tensor) -> Tensor:
    """Sum of ``exp(-rate * cost)`` over the three fixed rates; what M3D calls Laplace."""
    return torch.stack([torch.exp(-rate * cost) for rate in _LAPLACE_RATES]).sum(0)


def _factor_costs(u: Tensor, v: Tensor, geometry: ProductManifold) -> list[Tensor]:
    """Squared distances on each factor, that of a sample to itself without its rounding."""
    costs = geometry.factor_costs(u, v)
    if u is not v:
        return costs
    itself = torch.eye(u.shape[-2], dtype=torch.bool, device=u.device)
    return [cost.masked_fill(itself, 0) for cost in costs]


def _pooled_mean(costs: Sequence[Tensor]) -> Tensor:
    """Mean cost ``(...,)`` of two different samples, positive even where all coincide."""
    real_real, real_synthetic, synthetic_synthetic = (cost.detach() for cost in costs)
    count = sum(real_synthetic.shape[-2:])
    total = real_real.sum((-2, -1)) + synthetic_synthetic.sum((-2, -1))
    total = total + 2 * real_synthetic.sum((-2, -1))
    return (total / (count * (count - 1))).clamp(min=torch.finfo(total.dtype).eps)


def _squared_repeatedly(value: Tensor) -> Tensor:
    """Sum of ``value``, its square, the square of that, and so on: one for each bandwidth."""
    total = value
    for _ in range(_NUM_BANDWIDTHS - 1):
        value = value.square()
        total = total + value
    return total
