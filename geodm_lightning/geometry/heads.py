r"""Heads: which features each factor of a product sees.

A head that keeps ``d_g`` of ``d`` directions multiplies them by :math:`\sqrt{d/d_g}`, so the
mean squared norm of what a factor sees is that of all features when the directions are alike,
and a curvature keeps its meaning. Every head here, and that factor, is inferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.manifold import at_least_float32
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

_Value = TypeVar("_Value")
HEADS = ("identity", "split", "learned")
LEARNED_DIM = 128  # keeps the QR decomposition after each step small beside the step


class IdentityHeads(nn.Module):
    """Every factor sees all features."""

    def forward(self, u: Tensor, factors: Sequence[int]) -> list[Tensor]:
        """Return ``u`` itself, ``(..., n, d)``, once for each factor."""
        return [u] * len(factors)

    def clamp_(self) -> None:
        """Nothing to bring back."""


class SplitHeads(nn.Module):
    """A fixed random orthonormal basis of the features, divided among the factors.

    The basis is no part of the state: it is rebuilt from the seed.

    Args:
        dims: Directions of each factor; they sum to the number of features.
        seed: Seed of the run.
    """

    basis: Tensor

    def __init__(self, dims: Sequence[int], *, seed: int) -> None:
        super().__init__()
        self.dims = tuple(dims)
        d = sum(dims)
        scale = torch.cat([torch.full((dim,), math.sqrt(d / dim)) for dim in dims])
        basis = orthonormal_columns(d, d, keyed_generator(seed, "split"))
        self.register_buffer("basis", basis * scale, persistent=False)

    def forward(self, u: Tensor, factors: Sequence[int]) -> list[Tensor]:
        """Coordinates of ``(..., n, d)`` for the named factors, ``(..., n, d_g)`` each."""
        parts = _project(u, self.basis).split(self.dims, dim=-1)
        return [parts[i] for i in factors]

    def clamp_(self) -> None:
        """Nothing to bring back."""


class LearnedHeads(nn.Module):
    """One learned matrix with orthonormal rows for each factor.

    A matrix starts as the identity, or, where a factor keeps fewer directions, as the first
    rows of one random orthonormal basis, the same for all factors.

    Args:
        dims: Directions of each factor, at most ``num_features``.
        num_features: Width of the features.
        seed: Seed of the run.
    """

    def __init__(self, dims: Sequence[int], *, num_features: int, seed: int) -> None:
        super().__init__()
        partial = max((dim for dim in dims if dim < num_features), default=0)
        basis = orthonormal_columns(num_features, partial, keyed_generator(seed, "heads")).mT
        whole = torch.eye(num_features)
        self.matrices = nn.ParameterList(
            (whole if dim == num_features else basis[:dim]).clone() for dim in dims
        )

    def forward(self, u: Tensor, factors: Sequence[int]) -> list[Tensor]:
        """Coordinates of ``(..., n, d)`` for the named factors, ``(..., n, d_g)`` each."""
        return [self._see(u, self.matrices[i]) for i in factors]

    def clamp_(self) -> None:
        """Bring the rows back to orthonormal ones, by a QR decomposition in place."""
        for matrix in self.matrices:
            if matrix.requires_grad:
                with torch.no_grad():
                    matrix.copy_(_signed_qr(matrix.mT).mT)

    @staticmethod
    def _see(u: Tensor, matrix: Tensor) -> Tensor:
        dim, num_features = matrix.shape
        return math.sqrt(num_features / dim) * _project(u, matrix.mT)


Heads: TypeAlias = IdentityHeads | SplitHeads | LearnedHeads


def build_heads(
    kind: str,
    *,
    num_factors: int,
    dims: Sequence[int] | None,
    num_features: int | None,
    seed: int,
) -> Heads:
    """Build the heads of a product.

    Args:
        kind: Out of :data:`HEADS`.
        num_factors: How many factors there are.
        dims: Directions of each factor; when omitted, as equal a split as possible, or
            128 for every learned head (all where there are fewer).
        num_features: Width of the features; identity heads need none.
        seed: Seed of the run.

    Returns:
        The heads, on the CPU in the default precision.

    Raises:
        InputError: If the kind is unknown, the width is missing, or the dims do not fit.
    """
    if kind not in HEADS:
        raise InputError(f"unknown heads {kind!r}; choose from {', '.join(HEADS)}")
    if kind == "identity":
        if dims is not None:
            raise InputError(
                f"identity heads give every factor all features, got dims {list(dims)}; "
                "leave dims out, or choose split or learned heads"
            )
        return IdentityHeads()
    if num_features is None:
        raise InputError(f"{kind} heads need num_features, the width of the features")
    if dims is None:
        each, rest = divmod(num_features, num_factors)
        split = [each + (i < rest) for i in range(num_factors)]
        dims = split if kind == "split" else [min(num_features, LEARNED_DIM)] * num_factors
    sizes = _check_dims(dims, num_factors, num_features, sum_up=kind == "split")
    if kind == "split":
        return SplitHeads(sizes, seed=seed)
    return LearnedHeads(sizes, num_features=num_features, seed=seed)


def each_once(function: Callable[..., _Value], *columns: Sequence[Tensor]) -> list[_Value]:
    """Evaluate for each factor, once for those whose arguments are the same tensors.

    Args:
        function: What to evaluate.
        columns: Its arguments, each with one tensor for every factor.

    Returns:
        One value for every factor.
    """
    values: dict[tuple[int, ...], _Value] = {}
    keys = [tuple(map(id, arguments)) for arguments in zip(*columns, strict=True)]
    for key, arguments in zip(keys, zip(*columns, strict=True), strict=True):
        if key not in values:
            values[key] = function(*arguments)
    return [values[key] for key in keys]


def orthonormal_columns(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns, uniformly distributed, shape ``(rows, columns)``."""
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return _signed_qr(gaussian).to(torch.get_default_dtype())


def _signed_qr(matrix: Tensor) -> Tensor:
    """The orthonormal factor whose triangle has a positive diagonal, which makes it unique."""
    q, r = torch.linalg.qr(matrix)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)


def _project(u: Tensor, matrix: Tensor) -> Tensor:
    """``u @ matrix`` in the precision of ``u``, outside autocast."""
    u = at_least_float32(u)
    if u.shape[-1] != matrix.shape[0]:
        raise InputError(
            f"features have width {u.shape[-1]}, the heads were built for "
            f"num_features={matrix.shape[0]}"
        )
    with torch.autocast(device_type=u.device.type, enabled=False):
        return u @ matrix.to(u.dtype)


def _check_dims(
    dims: Sequence[int], num_factors: int, num_features: int, *, sum_up: bool
) -> list[int]:
    sizes = [int(dim) for dim in dims]
    if len(sizes) != num_factors:
        raise InputError(f"dims {sizes} must have one entry for each of the {num_factors} factors")
    if sizes != list(dims) or min(sizes) < 1:
        raise InputError(f"dims must be whole numbers from 1 on, got {list(dims)}")
    if sum_up and sum(sizes) != num_features:
        raise InputError(
            f"dims {sizes} sum to {sum(sizes)}, not to the {num_features} features; "
            "change them, or leave them out for an equal split"
        )
    if max(sizes) > num_features:
        raise InputError(f"dims {sizes} exceed the {num_features} features; lower them")
    return sizes
