"""Transformers and autoencoders on disk, as ``save_pretrained`` of diffusers lays them out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geodm_lightning.types import InputError

CONFIG = "config.json"
TRANSFORMER = "DiTTransformer2DModel"
AUTOENCODER = "AutoencoderKL"
SUBFOLDERS = {TRANSFORMER: "transformer", AUTOENCODER: "vae"}


def load_transformer(source: str | Path, *, download: bool = False) -> nn.Module:
    """Read a ``DiTTransformer2DModel``.

    Args:
        source: A folder written by ``save_pretrained`` (of the transformer, or of a pipeline that
            has it in ``transformer/``), or a name on the hub such as ``facebook/DiT-XL-2-256``,
            which is looked for among the models fetched before.
        download: Whether a name may be fetched from the hub.

    Returns:
        The transformer in evaluation mode, on the CPU, with the weights' own type.

    Raises:
        InputError: If the weights are missing, damaged, incomplete or of another model.
    """
    return _load(TRANSFORMER, str(source), download)


def load_autoencoder(source: str | Path, *, download: bool = False) -> nn.Module:
    """Read an ``AutoencoderKL``; as :func:`load_transformer`, with ``vae/`` for a pipeline.

    Args:
        source: A folder, or a name on the hub such as ``stabilityai/sd-vae-ft-mse``.
        download: Whether a name may be fetched from the hub.

    Returns:
        The autoencoder in evaluation mode, on the CPU.

    Raises:
        InputError: If the weights are missing, damaged, incomplete or of another model.
    """
    return _load(AUTOENCODER, str(source), download)


def save_weights(module: nn.Module, folder: Path) -> Path:
    """Write a transformer or autoencoder where the loaders above find it.

    Args:
        module: A model of diffusers.
        folder: Folder to fill; ``config.json`` is written last by a rename, so an interrupted
            writing does not look like a model.

    Returns:
        ``folder``.

    Raises:
        InputError: If the folder cannot be written.
    """
    model: Any = module
    config = folder / CONFIG
    try:
        config.unlink(missing_ok=True)
        with _quiet():
            model.save_pretrained(folder / ".partial")
        parts = sorted((folder / ".partial").iterdir(), key=lambda part: part.name == CONFIG)
        for part in parts:
            part.replace(folder / part.name)
        (folder / ".partial").rmdir()
    except OSError as error:
        raise InputError(
            f"cannot write the model {folder}: {error.strerror or error}; choose another folder "
            f"or free space"
        ) from error
    return folder


def identity_of(module: nn.Module) -> str:
    """Return a SHA-256 over what a model computes: its configuration and its weights.

    Where it lies and what wrote it do not enter, so a model is recognised after it was moved.

    Args:
        module: A model of diffusers, on any device.

    Returns:
        64 hexadecimal digits.
    """
    model: Any = module
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for key, value in sorted(module.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{key} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(family: str, source: str, download: bool) -> nn.Module:
    import diffusers

    folder = Path(source).expanduser()
    options: dict[str, Any] = {"local_files_only": not download}
    name = source
    if folder.is_dir():
        folder = _model_folder(folder, family)
        options, name = {"local_files_only": True}, str(folder)
    elif _is_path(source):
        raise InputError(f"no folder {source} with a {family}; {_way_out(family, None)}")
    elif family == TRANSFORMER:
        options["subfolder"] = SUBFOLDERS[family]
    try:
        with _quiet():
            model, report = getattr(diffusers, family).from_pretrained(
                name, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _unreadable(family, source, error) from error
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[key]:
            first, count = str(sorted(report[key])[0]), len(report[key])
            raise _damaged(family, source, f"{count} {key.replace('_', ' ')}, first {first}")
    return model.eval()


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") != 1


def _model_folder(folder: Path, family: str) -> Path:
    """Return the folder itself or, of a pipeline, the part; its config is checked."""
    looked_at = [folder, folder / SUBFOLDERS[family]]
    found = next((each for each in looked_at if (each / CONFIG).is_file()), None)
    if found is None:
        places = " or ".join(map(str, looked_at))
        raise InputError(f"no {family} in {places}: {CONFIG} is missing; {_way_out(family, None)}")
    try:
        config = json.loads((found / CONFIG).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(family, str(found), f"{CONFIG} is not JSON") from error
    written = config.get("_class_name") if isinstance(config, dict) else None
    if written != family:
        raise InputError(f"{found} holds a {written}, not a {family}; {_way_out(family, None)}")
    return found


def _unreadable(family: str, source: str, error: Exception) -> InputError:
    if Path(source).expanduser().is_dir():
        return _damaged(family, source, str(error).split("\n")[0].split(". ")[0])
    from huggingface_hub import constants

    looked_at = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
    if looked_at.is_dir():
        return InputError(
            f"weights of {source} in {looked_at} are incomplete or damaged; "
            f"{_way_out(family, source)}"
        )
    return InputError(
        f"weights of {source} are not here: there is no {looked_at} and no folder of that name; "
        f"{_way_out(family, source)}"
    )


def _way_out(family: str, source: str | None) -> str:
    if source is None:
        return f"name a folder written by save_pretrained of {family}"
    part = f" --include '{SUBFOLDERS[family]}/*'" if family == TRANSFORMER else ""
    return f"fetch them with `hf download {source}{part}` or name a local folder of {family}"


def _damaged(family: str, source: str, reason: str) -> InputError:
    return InputError(
        f"damaged {family} in {source}: {reason}; fetch or train it again or name another folder"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let diffusers and the hub neither print nor warn; what matters is raised."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
