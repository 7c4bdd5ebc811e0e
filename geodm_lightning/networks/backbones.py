"""A network by name: those of the distillation literature, or any model of timm."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geodm_lightning.networks.alexnet import AlexNet
from geodm_lightning.networks.convnet import DEPTHS, ConvNet
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.resnet import ResNet
from geodm_lightning.networks.vgg import VGG
from geodm_lightning.networks.vit import ViT
from geodm_lightning.types import InputError

RESNETS: Mapping[str, Mapping[str, Any]] = {
    "resnet_ap10": {"depth": 10, "shrink": "average"},
    "resnet18_in": {"depth": 18, "shrink": "stride"},
}
CONVNETS = ("convnet", *(f"convnet_d{depth}" for depth in DEPTHS))
OTHERS: Mapping[str, tuple[type[Network], tuple[str, ...]]] = {  # with their options
    "alexnet": (AlexNet, ()),
    "vgg11_in": (VGG, ()),
    "vit": (ViT, ("depth", "width", "patch")),
}
OWN_NAMES = (*CONVNETS, *RESNETS, *OTHERS)


def build_network(
    name: str,
    *,
    num_classes: int,
    channels: int,
    resolution: int,
    generator: torch.Generator,
    **options: Any,
) -> Network:
    """Build a network with fresh weights.

    Args:
        name: ``convnet`` (depth fits the resolution), ``convnet_d3`` to ``_d6``, ``resnet_ap10``
            and ``resnet18_in`` (instance norm), ``alexnet``, ``vgg11_in`` (instance norm),
            ``vit`` (patches fit the resolution), or any timm name.
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels.
        generator: Source of the weights; no other randomness is read or changed.
        options: Passed to :class:`ConvNet` (``depth``, ``width``, ``convolution``), to
            :class:`ResNet` (``width``), to :class:`ViT` (``depth``, ``width``, ``patch``) or to
            the timm model.

    Returns:
        A network on the CPU, in train mode.

    Raises:
        InputError: If the name is unknown, an option is refused, or the network cannot take
            images of this resolution.

    Example:
        >>> network = build_network("convnet", num_classes=10, channels=1, resolution=28,
        ...                         generator=torch.Generator().manual_seed(0))
        >>> network.embed(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 2048])
    """
    shape: dict[str, Any] = {
        "num_classes": num_classes,
        "channels": channels,
        "resolution": resolution,
    }
    if name not in OWN_NAMES:
        return TimmNetwork(name, **shape, generator=generator, options=options)
    if name in RESNETS:
        _check_options(options, "ResNet", ("width",))
        return ResNet(**shape, generator=generator, **RESNETS[name], **options)
    if name in OTHERS:
        kind, valid = OTHERS[name]
        _check_options(options, kind.__name__, valid)
        return kind(**shape, generator=generator, **options)
    if match := re.fullmatch(r"convnet_d(\d)", name):
        options = {"depth": int(match[1]), **options}
    _check_options(options, "ConvNet", ("depth", "width", "convolution"))
    return ConvNet(**shape, generator=generator, **options)


def _check_options(options: dict[str, Any], kind: str, valid: tuple[str, ...]) -> None:
    if unknown := set(options) - set(valid):
        known = ", ".join(valid) or "none"
        raise InputError(f"unknown {kind} option {min(unknown)!r}; valid: {known}")


class TimmNetwork(Network):
    """A timm model without pretrained weights, seen as a :class:`Network`.

    Features are what the model's head passes to its last linear layer.

    Args:
        name: Name of the timm model.
        num_classes: Number of logits.
        channels: Colour channels of the images.
        resolution: Height and width of the images in pixels; told to models of fixed input size.
        generator: Source of the weights.
        options: Further keywords of the timm model.

    Raises:
        InputError: If timm has no such model or it cannot take such images.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        channels: int,
        resolution: int,
        generator: torch.Generator,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.num_classes = num_classes
        self._arguments = _timm_arguments(
            name, num_classes=num_classes, channels=channels, resolution=resolution
        ) | (options or {})
        shape = (1, channels, resolution, resolution)
        try:
            self.model: Any = _create_timm(name, self._arguments, generator=generator)
            self.num_features = self._count_features(torch.zeros(shape))
        except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"timm model {name} cannot take {channels}×{resolution}×{resolution} images: "
                f"{reason}; choose another network, or a larger data.resolution where the data "
                f"set allows one"
            ) from error

    def embed(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to features ``(n, d)``."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(n, ch, h, w)`` to logits ``(n, num_classes)``."""
        return self.model(images)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Build the model anew from ``generator`` and copy its weights and buffers in place."""
        fresh = _create_timm(self.name, self._arguments, generator=generator)
        self.model.load_state_dict(fresh.state_dict())

    def _count_features(self, image: Tensor) -> int:
        training = self.training
        self.eval()
        with torch.no_grad():
            features = self.embed(image)
            logits = self(image)
        self.train(training)
        if features.ndim != 2 or logits.shape != (1, self.num_classes):
            raise ValueError(f"its features have shape {tuple(features.shape)}, not (n, d)")
        return features.shape[1]


def _timm_arguments(
    name: str, *, num_classes: int, channels: int, resolution: int
) -> dict[str, Any]:
    import timm

    if ":" in name or not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise InputError(
            f"unknown network {name!r}; own networks: {', '.join(OWN_NAMES)}; "
            f"timm models: {', '.join(close) + ', …' if close else 'see timm.list_models()'}"
        )
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    configuration = timm.models.get_pretrained_cfg(name)
    if configuration is not None and configuration.fixed_input_size:
        arguments["img_size"] = resolution
    return arguments


def _create_timm(name: str, arguments: dict[str, Any], *, generator: torch.Generator) -> nn.Module:
    """Build a timm model whose weights depend on ``generator`` alone.

    timm draws from PyTorch's global CPU generator, which is seeded for the call and put back.
    """
    import timm

    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        return timm.create_model(name, pretrained=False, **arguments)
