"""Load a model and its tokenizer: the primer, a directory, a hub id or a GGUF file; safetensors and GGUF only.

Loading never reads pickle, and never runs code that comes with a model unless the user asks for it by name. What can be
known of a directory before it is loaded is looked at first, so that a user reads what is missing and not what broke.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from errata.errors import BadConfig, BadModel, ErrataError, UnknownArchitecture, did_you_mean
from errata.model import arch, checkpoints, gguf, storage, where
from errata.model.lm import LM, quiet
from errata.model.shape import CLASSIFIES, in_short

_LOADERS = {
    "classifier": transformers.AutoModelForSequenceClassification,
    "decoder": transformers.AutoModelForCausalLM,
    "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    "encoder": transformers.AutoModelForMaskedLM,
}
# Where a type without a row may have its class, in this order unless its config.json names one of them.
_OTHERS = (
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForImageTextToText,
    transformers.AutoModelForMaskedLM,
)


def load(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    separator: str = "auto",
) -> LM:
    """Load the shipped primer (``"primer"``), a local directory, a GGUF file, a model a package brings, or a hub id.

    Args:
        device: a torch device, or "auto" to spread the model over all of them (needs accelerate).
        dtype: such as "bfloat16", or "nf4", "fp4" or "int8" to pack the matrices (needs bitsandbytes); default is the
            checkpoint's, and float32 for a GGUF file.
        trust_remote_code: run code that comes with the model. Off unless asked for.
        separator: the token that texts open with, as the model's documents did, where the tokenizer puts none: "auto" finds it
            (`errata.model.separator`), "none" leaves texts as they are.

    Raises:
        BadModel: no weights, pickle weights only, some missing, quantised in a way that cannot be undone, or unreadable.
        BadConfig: no such device, dtype or separator here. UnknownArchitecture, UnsupportedModel: of the model's type.
    """
    path, file = where.folder_of(name), gguf.file_of(name)
    if path is not None and path != where.PRIMER:
        check_directory(path, name)
    check_place(device, dtype)
    try:
        with quiet(), gguf.read_once() if file else nullcontext():
            model, tokenizer, notes = _from_pretrained(str(path or name), file, device, dtype, trust_remote_code)
            lm = LM(model, tokenizer, name)
    except BadModel as error:
        raise error if repr(name) in str(error) else BadModel(f"{name!r}: {error}") from error
    except ErrataError:
        raise
    except Exception as error:  # whatever transformers, tokenizers and safetensors raise: they do not say
        raise _unloadable(name, file, error) from error
    lm.notes = notes
    return lm if separator == "auto" else _opened_by(lm, separator)


def look(name: str) -> None:
    """Look whether a model is there, as far as it shows without its weights; raises what `load` would."""
    path, file = where.folder_of(name), gguf.file_of(name)
    try:
        if path is None:
            with gguf.read_once() if file else nullcontext():
                transformers.AutoConfig.from_pretrained(
                    str(file.parent) if file else name, gguf_file=file and file.name
                )
    except Exception as error:  # as in `load`
        raise _unloadable(name, file, error) from error
    if path is not None and path != where.PRIMER:
        check_directory(path, name)


def _unloadable(name: str, file: Path | None, error: Exception) -> BadModel:
    give = "a directory with config, tokenizer and safetensors" + (" of the same model" if file else "")
    return BadModel(f"cannot load {name!r} ({in_short(error)}); give {give}.")


def _opened_by(lm: LM, text: str) -> LM:
    """Return the model with texts opened by that special token, or by nothing; raises BadConfig where there is none such."""
    if text == "none":
        lm.tokens.separator = None
        return lm
    known = dict(zip(lm.tokenizer.all_special_tokens, lm.tokenizer.all_special_ids, strict=True))
    if text not in known:
        raise BadConfig(
            f"{lm.name} has no special token {text!r}; it has {', '.join(known) or 'none'}, or use auto or none."
        )
    lm.tokens.separator = int(known[text])
    return lm


def _from_pretrained(
    path: str, file: Path | None, device: str | None, dtype: str | None, trust: bool
) -> tuple[Any, Any, tuple[str, ...]]:
    """Return a plain model, its tokenizer, and what there is to say about them."""
    folder = str(file.parent) if file else path
    common: dict[str, Any] = {"trust_remote_code": trust} | ({"gguf_file": file.name} if file else {})
    config = transformers.AutoConfig.from_pretrained(folder, **common)
    loader, said = loader_of(config), checkpoints.packing(config)
    fp8 = bool(said) and checkpoints.method_of(said) == checkpoints.FP8
    notes = gguf.left_unread(file) if file else ()
    few = _few_bits(config, said, dtype, file)
    if fp8:
        config, notes = _unpacking(config, said)
    spread = _spread(device, few is not None)
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True, "config": config}
    options = {**_numbers(file, None if dtype in PACKED else dtype), **(few or {}), **spread, **common}
    with redirect_stderr(io.StringIO()) if file else nullcontext():  # a bar that cannot be switched off
        model, info = loader.from_pretrained(folder, **options, **report)
    _check_whole(str(file or path), model, info)
    if not said:
        checkpoints.check_scales(info["unexpected_keys"])
    elif fp8:
        checkpoints.check_blocks(_folder(folder), said)
    if fp8 or file:
        model = _plain(model, str(file or path), spread)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
    model = (model if spread else model.to(device or "cpu")).requires_grad_(False)
    return model, tokenizer, (*notes, *checkpoints.unused(info["unexpected_keys"]))


def _spread(device: str | None, packed: bool) -> dict[str, Any]:
    """Return what tells transformers where to put a model; packed matrices cannot be moved later."""
    if device == "auto":
        return {"device_map": "auto"}
    return {"device_map": {"": device or "cpu"}} if packed else {}


def _numbers(file: Path | None, dtype: str | None) -> dict[str, Any]:
    """Return what tells transformers which numbers to read, and as what."""
    if file is None:
        return {"dtype": dtype or "auto", "use_safetensors": True}
    # A GGUF file is asked for in full: where there are kernels for it, newer transformers would leave its blocks as they are.
    of_blocks = getattr(transformers, "GgufConfig", None)
    whole = {"quantization_config": of_blocks(dequantize=True)} if of_blocks else {"use_safetensors": False}
    return {"dtype": dtype or "float32", **whole}


def loader_of(config: Any) -> Any:
    """Return the class of transformers that loads a configuration's model as it was saved, its other modalities included.

    Raises:
        UnknownArchitecture: it has none that says anything of texts.
    """
    names = config.architectures or ()
    if any(name.endswith(CLASSIFIES) for name in names):
        return _LOADERS["classifier"]
    if (written := arch.row(config.model_type)) is not None:
        goes_on = written.kind == "encoder" and config.is_decoder
        return _LOADERS["decoder" if goes_on else written.kind]
    if own := getattr(config, "auto_map", None):
        return next((loader for loader in _OTHERS if loader.__name__ in own), _OTHERS[0])
    able = [loader for loader in _OTHERS if type(config) in loader._model_mapping]
    named = [loader for loader in able if _class_of(loader, config) in names]
    if not able:
        raise UnknownArchitecture(
            f"transformers has no model of the type {config.model_type!r} that goes on with a text, fills a gap in one or "
            "classifies it; give a model that does."
        )
    return (named or able)[0]


def _class_of(loader: Any, config: Any) -> str:
    found = loader._model_mapping[type(config)]
    return str((found[0] if isinstance(found, tuple) else found).__name__)


def _check_whole(path: str, model: Any, info: Mapping[str, Any]) -> None:
    # transformers fills what is missing, or has another shape than config.json says, with random numbers.
    if lacking := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise BadModel(
            f"{path!r} has no weights of the right shape for {len(lacking)} of its tensors, such as {lacking[0]}; "
            "get a whole copy."
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # from a hub: a directory has been looked at before
        raise BadModel(_HAS_ADAPTER)


def _unpacking(config: Any, said: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the configuration that lets transformers multiply FP8 weights out, and the note that says so."""
    if find_spec("accelerate") is None:
        raise BadModel(
            "FP8 weights are read with the package accelerate, which is not installed: pip install accelerate."
        )
    config.quantization_config = {**said, "dequantize": True}
    if getattr(config, "dtype", None) is None:
        config.dtype = torch.bfloat16  # a checkpoint's own, which is asked for otherwise, may be that of a byte
    return config, ("its FP8 weights were dequantised; edits are of the plain weights, and so is what is saved.",)


PACKED: Final = ("nf4", "fp4", "int8")


def _few_bits(config: Any, said: Mapping[str, Any], dtype: str | None, file: Path | None) -> dict[str, Any] | None:
    """Return what tells transformers how to pack matrices, nothing where they lie packed; None where they are to be plain.

    Raises:
        BadModel: a package that this needs is not installed. BadConfig: the weights are packed already.
    """
    lies = checkpoints.method_of(said) if said else "GGUF" if file else ""
    if dtype in PACKED and lies:
        raise BadConfig(
            f"its weights are packed already ({lies}); leave --dtype {dtype} out, or give the model it was made from."
        )
    if dtype not in PACKED and not lies.endswith(checkpoints.BITSANDBYTES):
        return None
    if missing := [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]:
        raise BadModel(
            f"weights of few bits are read with the package {' and '.join(missing)}, which is not installed: "
            "pip install 'errata-lm[quantized]'."
        )
    storage.hush()
    if lies:
        return {}
    bits = {"load_in_8bit": True} if dtype == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": dtype}
    whole = getattr(config, "dtype", None) or torch.float32
    return {"quantization_config": transformers.BitsAndBytesConfig(**bits, bnb_4bit_compute_dtype=whole)}


def _plain(model: Any, path: str, spread: Mapping[str, Any]) -> Any:
    """Return the same weights, not copied, in a model that knows of no quantisation and can therefore be saved."""
    config, generation = model.config, getattr(model, "generation_config", None)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    # What has the dtype already, as all of a GGUF file has, is not copied; what was never packed in an FP8 checkpoint may not.
    state = model.state_dict()
    made = type(model).from_pretrained(None, config=config, state_dict=state, dtype=config.dtype, **spread)
    made.config._name_or_path = made.name_or_path = path
    if generation is not None:
        made.generation_config = generation
    return made


def _folder(path: str) -> Path:
    """Return where the files of a model lie, also of one that came from a hub."""
    found = path if os.path.isdir(path) else os.path.dirname(transformers.utils.cached_file(path, "config.json"))
    return Path(found)


_HAS_ADAPTER = (
    "it holds a LoRA adapter too (adapter_config.json), and the files do not say whether the weights have it in them; move "
    "the adapter elsewhere to edit without it, or add it by peft's merge_and_unload() and save that."
)
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_directory(path: Path, name: str) -> None:
    """Refuse what is no model with safetensors weights of a type that transformers has.

    A LoRA adapter beside the weights is refused and not merged: transformers loads it where peft is installed and ignores it
    where it is not, and the files do not say whether it belongs to these weights or is in them already. A guess would be an
    edit of another model than the user means.

    Raises:
        BadModel: no readable config.json, no weights, or pickled ones only.
        UnknownArchitecture: transformers has no such `model_type`.
    """
    if not (path / "config.json").is_file():
        files = sorted(path.glob(f"*{gguf.ENDING}"))
        give = f"the file itself, {files[0]}" if files else "a directory as save_pretrained writes it"
        if (path / checkpoints.ADAPTER).is_file():
            give = "the model this LoRA adapter belongs to, or that model with the adapter merged by peft"
        raise BadModel(f"{name!r} has no config.json; give {give}.")
    if (path / checkpoints.ADAPTER).is_file():
        raise BadModel(f"{name!r}: {_HAS_ADAPTER}")
    _check_type(*_model_type(path / "config.json", name))
    if any(path.glob("*.safetensors")):
        return
    pickled = [found for pattern in _PICKLED for found in path.glob(pattern)]
    if pickled:
        raise BadModel(
            f"{name!r} has only pickle weights ({pickled[0].name}), which can run code when read; "
            "convert them to safetensors."
        )
    raise BadModel(f"{name!r} has no weights (*.safetensors); save the model with its weights.")


def _model_type(config: Path, name: str) -> tuple[str, bool]:
    """Return the type that a config.json names, and whether the model brings code of its own."""
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
    return found, bool(settings.get("auto_map"))


def _check_type(model_type: str, has_code: bool) -> None:
    known = transformers.CONFIG_MAPPING
    if model_type not in known and model_type not in arch.TABLE and not has_code:
        raise UnknownArchitecture(
            f"transformers {transformers.__version__} has no model_type {model_type!r}.{did_you_mean(model_type, known)} "
            "Update transformers, or correct config.json."
        )


def check_place(device: str | None, dtype: str | None) -> None:
    """Raise BadConfig where torch has no such device or dtype here."""
    if dtype and dtype not in PACKED and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise BadConfig(
            f"there is no dtype {dtype!r}; use float32, bfloat16 or float16, or {', '.join(PACKED)} to pack the matrices."
        )
    try:
        if device not in (None, "auto"):
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadConfig(f"the device {device!r} cannot be used here ({in_short(error)}); use cpu.") from error
