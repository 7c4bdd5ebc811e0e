"""Networks of one architecture with weights of their own, run as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pooling import AveragePool
from geodm_lightning.types import InputError

# Layers that can treat groups of channels apart from each other, and those that always do.
GROUPED = (nn.Conv2d, nn.GroupNorm)
APART = (nn.ReLU, nn.Identity, nn.Sequential, AveragePool, nn.AvgPool2d, nn.MaxPool2d)


class NetworkStack(nn.Module):
    """Several networks whose layers are computed together.

    Every parameter is that of all networks, one after the other along the first axis, so it has
    as many axes as theirs: what an optimiser does element by element, or by the number of axes,
    it does to each network. Networks of convolutions, group norms and pooling before one linear
    layer named ``classifier`` run with the channels of all networks side by side, in groups;
    others through ``torch.func.vmap``.

    Args:
        networks: Networks of one architecture; they are copied.

    Attributes:
        is_grouped: Whether channels run side by side.
        shapes: Shapes of the parameters of one network, by name.

    Raises:
        InputError: If their parameters or buffers differ in name or shape.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in networks]
        if not shapes or any(shape != shapes[0] for shape in shapes):
            raise InputError("networks of a stack must have the same parameters and buffers")
        self.num_networks = len(networks)
        self.num_classes = networks[0].num_classes
        self.is_grouped = all(_can_be_grouped(network) for network in networks)
        self.shapes = {name: p.shape for name, p in networks[0].named_parameters()}
        self.merged: Any = copy.deepcopy(networks[0])
        for name, parameter in networks[0].named_parameters():
            values = torch.stack([network.get_parameter(name).detach() for network in networks])
            # A scalar of every network becomes a vector.
            values = values.flatten(0, 1) if values.dim() > 1 else values
            owner, last = _place(self.merged, name)
            owner.register_parameter(last, nn.Parameter(values, parameter.requires_grad))
        for name, _ in networks[0].named_buffers():
            owner, last = _place(self.merged, name)
            owner._buffers[last] = torch.stack([n.get_buffer(name) for n in networks])
        if self.is_grouped:
            for layer in self.merged.modules():
                _widen(layer, self.num_networks)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(S, n, ch, h, w)``, those of each network, to logits ``(S, n, K)``."""
        logits: Tensor
        if not self.is_grouped:
            buffers = dict(self.merged.named_buffers())
            logits = vmap(self._alone)(self._apart(), buffers, images)
            return logits
        maps = images.transpose(0, 1).flatten(1, 2)
        features = self.merged.embed(maps).unflatten(1, (self.num_networks, -1)).transpose(0, 1)
        classifier, shape = self.merged.classifier, (self.num_networks, self.num_classes)
        weight, bias = classifier.weight.unflatten(0, shape), classifier.bias.view(shape)
        logits = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
        return logits

    def weights_of(self, index: int) -> dict[str, Tensor]:
        """Return the parameters of one network by name, views without gradient."""
        return {name: values[index].detach() for name, values in self._apart().items()}

    def _alone(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        logits: Tensor = functional_call(self.merged, (parameters, buffers), (images,))
        return logits

    def _apart(self) -> dict[str, Tensor]:
        """Return the parameters with an axis of the networks in front."""
        return {
            name: parameter.view(self.num_networks, *self.shapes[name])
            for name, parameter in self.merged.named_parameters()
        }


def _can_be_grouped(network: Network) -> bool:
    """Whether channels in groups compute what the networks do apart."""
    leaves = {name: m for name, m in network.named_modules() if not list(m.children())}
    last = leaves.pop("classifier", None)
    has_bias = isinstance(last, nn.Linear) and last.bias is not None
    return has_bias and all(isinstance(layer, (*GROUPED, *APART)) for layer in leaves.values())


def _widen(layer: nn.Module, times: int) -> None:
    """Tell a layer, whose parameters are those of several, how many channels it has."""
    if isinstance(layer, nn.Conv2d):
        layer.in_channels *= times
        layer.out_channels *= times
        layer.groups *= times
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels *= times
        layer.num_groups *= times


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter or buffer, and what it calls it."""
    *path, last = name.split(".")
    return network.get_submodule(".".join(path)), last
