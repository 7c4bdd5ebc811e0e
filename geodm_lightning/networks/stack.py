"""Networks of one architecture with weights of their own, run as one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pooling import AveragePool
from geodm_lightning.types import InputError

# Layers that treat groups of channels apart from each other.
GROUPED = (nn.Conv2d, nn.GroupNorm)
POINTWISE = (nn.ReLU, nn.Identity, AveragePool, nn.AvgPool2d, nn.MaxPool2d)


class NetworkStack(nn.Module):
    """Several networks whose layers are computed together.

    Every parameter is that of all networks, one after the other along the first axis, so it has
    as many axes as theirs: what an optimiser does element by element, or by the number of axes,
    it does to each network. Networks of convolutions, group norms and pooling before one linear
    layer named ``classifier`` run with the channels of all networks side by side, in groups;
    others through ``torch.func.vmap``.

    Args:
        networks: Networks of the same architecture on the CPU; they are copied.

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
        self.is_grouped = all(_is_grouped(network) for network in networks)
        self.merged: Any = copy.deepcopy(networks[0])
        self._shapes = {name: p.shape for name, p in networks[0].named_parameters()}
        for name, parameter in networks[0].named_parameters():
            own = [network.get_parameter(name).detach() for network in networks]
            values = torch.cat([value.reshape(-1, *value.shape[1:]) for value in own])
            _replace(self.merged, name, nn.Parameter(values, parameter.requires_grad))
        for name, _ in networks[0].named_buffers():
            _replace(self.merged, name, torch.stack([n.get_buffer(name) for n in networks]))
        if self.is_grouped:
            for module in self.merged.modules():
                _widen(module, self.num_networks)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(S, n, ch, h, w)``, those of each network, to logits ``(S, n, K)``."""
        if not self.is_grouped:
            return vmap(self._one)(self._parameters_of_each(), self._buffers_of_each(), images)
        maps = images.transpose(0, 1).flatten(1, 2)
        features = self.merged.embed(maps).unflatten(1, (self.num_networks, -1)).transpose(0, 1)
        classifier = self.merged.classifier
        shape = (self.num_networks, self.num_classes)
        weight, bias = classifier.weight.unflatten(0, shape), classifier.bias.view(shape)
        logits: Tensor = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
        return logits

    def weights_of(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every parameter of one network, views of the stack's."""
        for name, values in self._parameters_of_each().items():
            yield name, values[index].detach()

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.merged, (parameters, buffers), (x,))
        return logits

    def _parameters_of_each(self) -> dict[str, Tensor]:
        return {
            name: parameter.view(self.num_networks, *self._shapes[name])
            for name, parameter in self.merged.named_parameters()
        }

    def _buffers_of_each(self) -> dict[str, Tensor]:
        return dict(self.merged.named_buffers())


def _is_grouped(network: Network) -> bool:
    """Whether channels in groups compute what the networks do apart."""
    leaves = {name: m for name, m in network.named_modules() if not list(m.children())}
    last = leaves.pop("classifier", None)
    has_bias = isinstance(last, nn.Linear) and last.bias is not None
    return has_bias and all(isinstance(layer, (*GROUPED, *POINTWISE)) for layer in leaves.values())


def _widen(module: nn.Module, times: int) -> None:
    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels = (
            times * module.in_channels,
            times * module.out_channels,
        )
        module.groups *= times
    elif isinstance(module, nn.GroupNorm):
        module.num_channels *= times
        module.num_groups *= times


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter or a buffer."""
    *path, last = name.split(".")
    owner = module.get_submodule(".".join(path))
    if isinstance(value, nn.Parameter):
        owner.register_parameter(last, value)
    else:
        owner._buffers[last] = value
