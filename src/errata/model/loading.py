"""Load a model and its tokenizer: the primer, a directory, or a hub id; safetensors only.

Loading never reads pickle, and never runs code that comes with a model unless the user asks for it by name. What can be
known of a directory before it is loaded is looked at first, so that a user reads what is missing and not what broke.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from errata.errors import BadConfig, BadModel, ErrataError
from errata.model import arch
from errata.model.lm import CLASSIFIES, LM, quiet

_PRIMER = Path(__file__).parent.parent / "primer" / "model"
_LOADERS = {
    "classifier": transformers.AutoModelForSequenceClassification,
    "decoder": transformers.AutoModelForCausalLM,
    "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    "encoder": transformers.AutoModelForMaskedLM,
}


def load(name: str, *, device: str | None = None, dtype: str | None = None, trust_remote_code: bool = False) -> LM:
    """Load the shipped primer (``"primer"``), a local directory, or a hub id.

    Args:
        device: a torch device, or "auto" to spread the model over all of them (needs accelerate).
        dtype: such as "bfloat16"; default is the checkpoint's.
        trust_remote_code: run code that comes with the model. Off unless asked for.

    Raises:
        BadModel: no weights, pickle weights only, some missing, or unreadable.
        BadConfig: no such device or dtype here. UnknownArchitecture: no row for its `model_type`.
    """
    if name == "primer" and not _PRIMER.is_dir():
        raise BadModel("the primer's weights are not in this installation; run: make primer")
    path = str(_PRIMER) if name == "primer" else os.path.expanduser(name)
    if os.path.exists(path) or path[:1] in ("/", ".", "~"):
        check_directory(Path(path), name)
    check_place(device, dtype)
    try:
        with quiet():
            return LM(*_from_pretrained(path, device, dtype, trust_remote_code), name)
    except ErrataError:
        raise
    except Exception as error:  # whatever transformers, tokenizers and safetensors raise: they do not say
        raise BadModel(
            f"cannot load {name!r} ({in_short(error)}); give a directory with config, tokenizer and safetensors."
        ) from error


def _from_pretrained(path: str, device: str | None, dtype: str | None, trust: bool) -> tuple[Any, Any]:
    common: Mapping[str, Any] = {"trust_remote_code": trust}
    config = transformers.AutoConfig.from_pretrained(path, **common)
    classifies = any(name.endswith(CLASSIFIES) for name in config.architectures or ())
    loader = _LOADERS["classifier" if classifies else arch.row(config.model_type).kind]
    spread = {"device_map": "auto"} if device == "auto" else {}
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    options = {"use_safetensors": True, "dtype": dtype or "auto", **spread, **common}
    model, info = loader.from_pretrained(path, **options, **report)
    # transformers fills what is missing, or has another shape than config.json says, with random numbers.
    if lacking := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise BadModel(
            f"{path!r} has no weights of the right shape for {len(lacking)} of its tensors, such as {lacking[0]}; "
            "get a whole copy."
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **common)
    return (model if spread else model.to(device or "cpu")).requires_grad_(False), tokenizer


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
