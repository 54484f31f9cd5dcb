"""Llama-type models written as GGUF by gguf's own writer, as llama.cpp's converter lays them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of a query or key matrix as llama.cpp rotates them: pairs side by side, not half a head apart."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def stored(name: str, tensor: Any, config: Any) -> tuple[str, np.ndarray]:
    """Return a parameter's name and numbers as GGUF has them."""
    path, _, end = name.rpartition(".")
    array = tensor.detach().float().numpy()
    if path in OUTER:
        return f"{OUTER[path]}.{end}", array
    _, _, layer, inner = path.split(".", 3)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}.get(inner)
    return f"blk.{layer}.{NAMES[inner]}.{end}", interleaved(array, heads) if heads else array


def write(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    quantised: str = "F32",
    arch: str = "llama",
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a Llama model and its byte-level tokenizer, matrices as `quantised`, vectors as float32, and `more` tensors."""
    import gguf

    made, config = gguf.GGUFWriter(path, arch), model.config
    made.add_name("tiny")
    made.add_block_count(config.num_hidden_layers)
    made.add_context_length(config.max_position_embeddings)
    made.add_embedding_length(config.hidden_size)
    made.add_feed_forward_length(config.intermediate_size)
    made.add_head_count(config.num_attention_heads)
    made.add_head_count_kv(config.num_key_value_heads)
    made.add_layer_norm_rms_eps(config.rms_norm_eps)
    made.add_rope_freq_base(config.rope_parameters["rope_theta"])
    made.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    made.add_vocab_size(config.vocab_size)
    _add_tokenizer(made, tokenizer, config.vocab_size)
    kind = gguf.GGMLQuantizationType[quantised]
    for name, tensor in model.state_dict().items():
        called, array = stored(name, tensor, config)
        if array.ndim > 1 and quantised != "F32":
            made.add_tensor(called, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            made.add_tensor(called, array)
    for called, array in (more or {}).items():
        made.add_tensor(called, array)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def _add_tokenizer(made: Any, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    words = {number: word for word, number in whole["model"]["vocab"].items()}
    special = {token["id"] for token in whole["added_tokens"]}
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("default")
    made.add_token_list([words.get(number, f"<unused{number}>") for number in range(size)])
    made.add_token_types([3 if number in special else 1 for number in range(size)])
    made.add_token_merges([" ".join(pair) for pair in whole["model"]["merges"]])
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_add_bos_token(False)
    made.add_chat_template("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}")
