"""What a directory must hold to be a model, and where it can go: asked before transformers makes sense of it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from errata.errors import BadConfig, BadModel
from errata.model import arch

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_directory(path: Path, name: str) -> None:
    """Refuse what is no model with safetensors weights of an architecture in the table.

    Raises:
        BadModel: no directory, no readable config.json, no weights, or pickled ones only.
        UnknownArchitecture: no row for its `model_type`.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "is not there"
        raise BadModel(f"{name!r} {what}; give a directory as save_pretrained writes it.")
    if not (path / "config.json").is_file():
        raise BadModel(f"{name!r} has no config.json; give a directory as save_pretrained writes it.")
    arch.row(_model_type(path / "config.json", name))
    if any(path.glob("*.safetensors")):
        return
    pickled = [found for pattern in _PICKLED for found in path.glob(pattern)]
    if pickled:
        raise BadModel(
            f"{name!r} has only pickle weights ({pickled[0].name}), which can run code when read; "
            "convert them to safetensors."
        )
    raise BadModel(f"{name!r} has no weights (*.safetensors); save the model with its weights.")


def _model_type(config: Path, name: str) -> str:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(
            f"the config.json of {name!r} cannot be read ({type(error).__name__}); get a whole copy."
        ) from error
    found = settings.get("model_type") if isinstance(settings, dict) else None
    if not isinstance(found, str):
        raise BadModel(
            f"the config.json of {name!r} does not name a model_type; give a directory as save_pretrained writes it."
        )
    return found


def check_place(device: str | None, dtype: str | None) -> None:
    """Raise BadConfig where torch has no such device or dtype here."""
    if dtype and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise BadConfig(f"there is no dtype {dtype!r}; use float32, bfloat16 or float16.")
    try:
        if device not in (None, "auto"):
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadConfig(f"the device {device!r} cannot be used here ({in_short(error)}); use cpu.") from error


def in_short(error: Exception) -> str:
    """Return an error of another library as one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__
