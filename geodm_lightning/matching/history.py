"""Memory of synthetic prototypes: the historical term of DSDM, for any strategy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodm_lightning.geometry.product import ProductManifold
from geodm_lightning.matching.scaling import ScaledFeatures
from geodm_lightning.types import InputError

_SEEN, _ACTIVE, _PROTOTYPE = "seen", "active", "prototype/"


class PrototypeHistory(nn.Module):
    r"""Pull of the synthetic centroids towards their own past.

    .. math:: \lambda_h\, m^2 \sum_g w_g\, d_g(\bar v_g, h_g/m)^2 / d,
        \qquad h_g \leftarrow \beta h_g + (1 - \beta)\, m \bar v_g

    with :math:`\bar v_g` the centroid of a class's synthetic features on factor :math:`g`,
    :math:`m` the scale taken out by :func:`scale_features` and :math:`d` the width of the
    features. The memory holds normal coordinates in the unit of the unscaled features, since
    every network brings its own scale. It damps the fluctuation between networks. In flat
    space the term is DSDM's :math:`\lambda_h \|mean F_s - h\|^2 / d`; the product form and
    that the first prototype seeds the memory are inferred.

    One iteration is: :meth:`forward` and :meth:`remember` for every chunk of classes, then
    :meth:`advance_` once. Nothing changes the memory but the last.

    Args:
        weight: The factor lambda_h; 0.2 in DSDM.
        decay: Share beta of the memory that is kept in one iteration; 0.99 in DSDM.
        start_share: Share of the run after which the term acts; DSDM's 2000 of 10,000.

    Raises:
        InputError: If the weight is negative or not finite, or a share is not in [0, 1].

    References:
        Li et al., "Diversity-driven synthesis: dataset distillation through DSDM", 2024.
    """

    def __init__(self, weight: float = 0.2, decay: float = 0.99, start_share: float = 0.2) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise InputError(f"history weight must not be negative, got {weight}; 0 turns it off")
        for name, share in (("decay", decay), ("start_share", start_share)):
            if not 0 <= share <= 1:
                raise InputError(f"history {name} must lie in [0, 1], got {share}")
        self.weight = weight
        self.decay = decay
        self.start_share = start_share
        self.allocate(0)

    def allocate(self, num_classes: int) -> None:
        """Forget everything and make room for ``num_classes`` classes.

        The width of a prototype and its device follow from the first one remembered.
        """
        self.active = self.start_share == 0
        self._seen = torch.zeros(num_classes, dtype=torch.bool)
        self._rows = torch.zeros(num_classes, dtype=torch.bool)  # those pending
        self._memory: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}

    def forward(
        self, features: ScaledFeatures, geometry: ProductManifold, *, classes: slice
    ) -> Tensor:
        """Compute the term of each class.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            classes: Rows of the memory these ``C`` classes have.

        Returns:
            Terms ``(C,)`` in the squared unit of the unscaled features, ``lambda_h``
            included; zeros until the history is active, and for a class without a memory.

        Raises:
            InputError: If the rows are not ``C`` rows of the memory.
        """
        self._check_rows(features, classes)
        if not self.active or not self._memory:
            return torch.zeros_like(features.norm)
        scale = features.norm[..., None]
        past = [
            self._memory[name][classes].to(scale) / scale
            for name, _, _ in geometry.active_factors()
        ]
        squared = geometry.squared_distance(geometry.centroids(features.synthetic), past)
        width = features.synthetic.shape[-1]
        term = self.weight / width * features.norm.square() * squared
        return torch.where(self._seen[classes].to(term.device), term, 0)

    @torch.no_grad()
    def remember(
        self, features: ScaledFeatures, geometry: ProductManifold, *, classes: slice
    ) -> None:
        """Take down the prototypes of this iteration; they count from the next one on.

        Args:
            features: Features ``(C, R, d)`` and ``(C, S, d)`` at unit scale.
            geometry: Product manifold the features are points of.
            classes: Rows of the memory these ``C`` classes have.

        Raises:
            InputError: If the rows are not ``C`` rows of the memory.
        """
        self._check_rows(features, classes)
        device = features.norm.device
        self._seen, self._rows = self._seen.to(device), self._rows.to(device)
        self._rows[classes] = True
        centroids = geometry.centroids(features.synthetic)
        for (name, _, _), centroid in zip(geometry.active_factors(), centroids, strict=True):
            prototype = features.norm[..., None] * centroid
            if name not in self._pending:
                shape = (len(self._seen), prototype.shape[-1])
                self._pending[name] = prototype.new_zeros(shape)
            self._pending[name][classes] = prototype

    def advance_(self, iteration_share: float) -> None:
        """End an iteration: fold its prototypes into the memory.

        Args:
            iteration_share: Share of the run that is over, this iteration included.
        """
        rows, seen = self._rows[:, None], self._seen[:, None]
        for name, prototype in self._pending.items():
            memory = self._memory.get(name, torch.zeros_like(prototype)).to(prototype)
            mean = self.decay * memory + (1 - self.decay) * prototype
            self._memory[name] = torch.where(rows, torch.where(seen, mean, prototype), memory)
        self._seen = self._seen | self._rows
        self._pending, self._rows = {}, torch.zeros_like(self._seen)
        self.active = self.active or iteration_share >= self.start_share

    def state(self) -> dict[str, Tensor]:
        """Return the memory between two iterations, every tensor with a leading class axis.

        Flags are uint8 and on the device of the prototypes, so that rows can be gathered over
        processes by summing.
        """
        seen = self._seen.to(torch.uint8)
        memory = {f"{_PROTOTYPE}{name}": value for name, value in self._memory.items()}
        return {_SEEN: seen, _ACTIVE: torch.full_like(seen, int(self.active)), **memory}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` returned, or those of its rows that are owned here.

        Raises:
            InputError: If the state is not one of this class.
        """
        if not {_SEEN, _ACTIVE} <= set(state):
            raise InputError(f"a history holds 'seen' and 'active', this state {sorted(state)}")
        self._seen = state[_SEEN].bool()
        self.active = bool(state[_ACTIVE].any())
        self._pending, self._rows = {}, torch.zeros_like(self._seen)
        self._memory = {
            key.removeprefix(_PROTOTYPE): value.clone()
            for key, value in state.items()
            if key.startswith(_PROTOTYPE)
        }

    def _check_rows(self, features: ScaledFeatures, classes: slice) -> None:
        num_rows, num_classes = len(self._seen[classes]), len(features.norm)
        if num_rows != num_classes:
            raise InputError(
                f"a history of {len(self._seen)} classes has {num_rows} rows for {num_classes} "
                "classes; allocate it for all classes owned"
            )
