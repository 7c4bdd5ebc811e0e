"""Classifiers of torchvision and timm with weights: published ones by name, or a local file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geodm_lightning.types import InputError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
WRAPPERS = ("state_dict", "model")  # keys under which checkpoints keep the weights
PLAIN_RECIPE = "IMAGENET1K_V1"  # later versions are trained with mixed and smoothed labels


class Weighted(NamedTuple):
    """A network with its weights and the pixels it expects.

    Attributes:
        network: The network, in eval mode, on the CPU.
        mean: Per-channel mean its images are normalised by.
        std: Per-channel standard deviation its images are normalised by.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def is_file(weights: str | None) -> bool:
    """Whether ``weights`` means a file, not the name of published weights."""
    return weights is not None and (weights.endswith(SUFFIXES) or "/" in weights)


def torchvision_network(name: str, *, weights: str | None, num_outputs: int) -> Weighted:
    """Build a classifier of torchvision.

    Args:
        name: Name of the model, for example ``resnet18``.
        weights: Name of published weights, None for those of the plain recipe
            (``IMAGENET1K_V1``; inferred: their logits are of one scale), or a local file.
        num_outputs: Logits of a network whose weights are in a local file.

    Returns:
        The network; mean and std are those of its published weights.

    Raises:
        InputError: If model or weights are unknown, missing, damaged or do not fit.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    published = models.get_model_weights(name)
    names = [entry.name for entry in published]
    by_name = None if weights is None or is_file(weights) else weights.rpartition(".")[2]
    if by_name is not None and by_name not in names:
        raise InputError(f"torchvision has no weights {weights} of {name}; valid: {names}")
    plain = PLAIN_RECIPE if PLAIN_RECIPE in names else published.DEFAULT.name
    entry = published[by_name or plain]
    statistics = entry.transforms()
    with torch.random.fork_rng(devices=[]):
        if is_file(weights):
            network = models.get_model(name, weights=None, num_classes=num_outputs)
            _load(network, Path(str(weights)), name)
        else:
            network = _with_published(entry, name)
    return Weighted(network.eval(), tuple(statistics.mean), tuple(statistics.std))


def timm_network(
    name: str, *, weights: str | None, num_outputs: int, channels: int, resolution: int
) -> Weighted:
    """Build a classifier of timm.

    Args:
        name: Name of the model, with or without the tag of its weights, ``resnet18.tv_in1k``.
        weights: Tag of published weights, None for the tag in ``name`` or timm's first, or a
            local file.
        num_outputs: Logits of a network whose weights are in a local file.
        channels: Colour channels of such a network.
        resolution: Height and width of the images, told to models of fixed input size.

    Returns:
        The network; mean and std are those of its published weights.

    Raises:
        InputError: If model or weights are unknown, missing, damaged or do not fit.
    """
    import timm

    tagged = name if weights is None or is_file(weights) else f"{name.partition('.')[0]}.{weights}"
    try:
        configuration = timm.models.get_pretrained_cfg(tagged)
    except RuntimeError:
        configuration = None
    if configuration is None or not timm.is_model(tagged):
        raise _unknown("timm", tagged, timm.list_models() + timm.list_pretrained())
    options: dict[str, Any] = {}
    if configuration.fixed_input_size and configuration.input_size[-1] != resolution:
        options["img_size"] = resolution
    with torch.random.fork_rng(devices=[]):
        if is_file(weights):
            options |= {"num_classes": num_outputs, "in_chans": channels}
            network = timm.create_model(tagged, pretrained=False, **options)
            _load(network, Path(str(weights)), name)
        else:
            network = _with_hub_weights(tagged, configuration.hf_hub_id, options)
    return Weighted(network.eval(), tuple(configuration.mean), tuple(configuration.std))


def _with_published(entry: Any, name: str) -> nn.Module:
    from torchvision import models

    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    cached = path.is_file()
    try:
        return models.get_model(name, weights=entry, progress=False)
    except Exception as error:  # damaged bytes raise anything
        if cached:
            raise _damaged(path, error) from error
        raise InputError(
            f"weights {entry} of teacher {name} are not in {path.parent} and cannot be fetched "
            f"({_line(error)}); put {entry.url} there, or give the file as weights=PATH"
        ) from error


def _with_hub_weights(tagged: str, hub_id: str | None, options: dict[str, Any]) -> nn.Module:
    import timm
    from huggingface_hub import constants

    if hub_id is None:
        raise InputError(
            f"timm has no published weights of {tagged}; valid: "
            f"{', '.join(timm.list_pretrained(tagged.partition('.')[0] + '*')) or 'none'}"
        )
    try:
        return timm.create_model(tagged, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(
            f"weights {hub_id} of teacher {tagged} are not in {constants.HF_HUB_CACHE} or damaged, "
            f"and cannot be fetched ({_line(error)}); run `hf download {hub_id}` where there is "
            "a network, or give the file as weights=PATH"
        ) from error


def _load(network: nn.Module, path: Path, name: str) -> None:
    """Fill a network from a file; every weight of one must be in the other."""
    state = _read(path)
    own = network.state_dict()
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if not missing and not unexpected and not shapes:
        network.load_state_dict(state)
        return
    if missing:
        reason = f"{len(missing)} weights are missing, for example {min(missing)}"
    elif unexpected:
        reason = f"{len(unexpected)} weights are unknown to it, for example {min(unexpected)}"
    else:
        key = min(shapes)
        reason = f"{key} is {tuple(state[key].shape)}, needed is {tuple(own[key].shape)}"
        if len(own[key]) != len(state[key]):
            reason += " (another number of classes?)"
    raise InputError(
        f"the weights in {path} do not fit teacher {name}: {reason}; name the network they are of"
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; correct the path or fetch the file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise anything
        raise _damaged(path, error) from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no state dictionary; save network.state_dict() there")
    return {_current(key.removeprefix("module.")): value for key, value in state.items()}


def _current(key: str) -> str:
    """Rename a weight of the published DenseNets, which have kept the names of 2017."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", key)


def _unknown(library: str, name: str, known: list[str]) -> InputError:
    close = ", ".join(difflib.get_close_matches(name, known, n=5)) or "see its documentation"
    return InputError(f"{library} has no classifier {name!r}; closest: {close}")


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"cannot read the weights in {path} ({_line(error)}); delete the file and fetch it again"
    )


def _line(error: BaseException) -> str:
    name, lines = type(error).__name__, str(error).splitlines()
    return f"{name}: {lines[0].partition('. ')[0]}" if lines else name
