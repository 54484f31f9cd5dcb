"""What a loaded model is known by: which of its settings change what it computes, and a digest of its weights.

A setting counts if the configuration's class knows it and it is no circumstance of keeping, training or generating; one
that is as the class has it anyway is left out, so that it does not matter whether config.json says it, and settings
that a later transformers adds change nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import nn

from errata.identity import Identity
from errata.model.storage import tensors_of
from errata.model.weights import Weights

# Settings that the classes of configurations know and that change nothing in what an evaluated model computes. How many
# tokens there are is a part of its own; labels are words for numbers.
_CIRCUMSTANCES: Final = frozenset(
    "_name_or_path _sliding_window_pattern architectures auto_map chunk_size_feed_forward dtype finetuning_task "
    "gradient_checkpointing id2label init_std label2id model_type name_or_path num_labels output_attentions "
    "output_hidden_states output_router_logits pretraining_tp problem_type quantization_config return_dict "
    "router_aux_loss_coef router_jitter_noise task_specific_params tokenizer_class torch_dtype transformers_version "
    "use_cache vocab_size".split()
)
_CIRCUMSTANCE: Final = re.compile(
    r"(bos|eos|pad|sep|cls|unk|mask)_token_id|.*drop.*|initializer_.*|_attn_.*|summary_.*"
)


def identify(model: nn.Module, config: Any, vocabulary: int, weights: Weights, packing: str = "") -> Identity:
    """Return the identity of a model.

    Args:
        vocabulary: rows of its embedding. weights: its matrices, to look below the edits where that is asked for later.
        packing: what they are packed as, which then stands for the dtype.
    """

    @cache
    def older() -> str:
        with weights.at_base():
            return fingerprint_in_older_books(model, config.to_diff_dict())

    counting = settings(config) | (_of_packing(config, packing) if packing else {})
    return Identity(digest(model), packing or _dtype(model), vocabulary, counting, older)


def _of_packing(config: Any, packing: str) -> dict[str, Any]:
    """Return what a configuration says of how products with packed matrices are computed, if it is not as usual."""
    said = config.to_dict().get("quantization_config") or {}
    whole = str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch.")
    name, usual = ("llm_int8_threshold", "6.0") if packing == "int8" else ("bnb_4bit_compute_dtype", whole)
    found = str(said.get(name, usual))
    return {} if found == usual else {f"quantization_config.{name}": found}


def settings(config: Any) -> dict[str, Any]:
    """Return the settings of a transformers configuration that change the function, by dotted names."""
    cls: Any = type(config)
    mine, usual = config.to_dict(), _defaults(cls)
    parts = {name: getattr(config, name, None) for name in mine if name != "quantization_config"}
    nested = {name: part for name, part in parts.items() if hasattr(part, "to_diff_dict")}
    names = [name for name in mine if name not in nested and (usual is None or name in usual) and _counts(name)]
    found = {path: value for name in names for path, value in _flat(name, mine[name])}
    known = {path: value for name in names for path, value in _flat(name, (usual or {}).get(name))}
    kept = {path: found.get(path) for path in {*found, *known} if found.get(path) != known.get(path)}
    for name, part in nested.items():
        kept |= {f"{name}.{path}": value for path, value in settings(part).items()}
    return {"model_type": mine.get("model_type"), **kept}


def _counts(name: str) -> bool:
    return name not in _CIRCUMSTANCES and not _CIRCUMSTANCE.fullmatch(name)


@cache
def _defaults(cls: Callable[[], Any]) -> Mapping[str, Any] | None:
    """Return the settings of a configuration of which nothing is said; None of a class that has to be told something."""
    try:
        found: Mapping[str, Any] = cls().to_dict()
    except Exception:  # a class that came with a model may do anything
        return None
    return found


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers, texts and lists in a setting with their dotted names; 5000.0 is 5000."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}", inner)
    elif isinstance(value, list | tuple):
        yield path, [inner for one in value for _, inner in _flat("", one)]
    else:
        yield path, int(value) if isinstance(value, float) and value.is_integer() else value


def digest(model: nn.Module) -> str:
    """Return 32 hexadecimal digits that change with any weight."""
    found = hashlib.sha256()
    _add_weights(found, model)
    return found.hexdigest()[:32]


def _dtype(model: nn.Module) -> str:
    dtypes = {str(t.dtype).removeprefix("torch.") for t in model.state_dict().values() if t.is_floating_point()}
    return "+".join(sorted(dtypes))


def _add_weights(found: Any, model: nn.Module) -> None:
    for name, tensor in tensors_of(model):
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


# ------------------------------------------------------------------ books made before identities had parts

_OLDER_CIRCUMSTANCES = ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache")


def fingerprint_in_older_books(model: nn.Module, settings: Mapping[str, object]) -> str:
    """Return what a model was known by before identities had parts: never to be changed, or older books do not open.

    Args:
        settings: all that transformers would write into config.json.
    """
    found = hashlib.sha256(json.dumps(_numeric(settings), sort_keys=True, default=str).encode())
    _add_weights(found, model)
    return found.hexdigest()[:32]


def _numeric(settings: Mapping[Any, object]) -> dict[str, object]:
    kept = {str(name): value for name, value in settings.items() if name not in _OLDER_CIRCUMSTANCES}
    return {name: _numeric(value) if isinstance(value, Mapping) else value for name, value in kept.items()}
