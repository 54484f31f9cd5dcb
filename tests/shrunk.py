"""A tiny random model of any type that transformers has, made from its configuration class by shrinking what it says.

    model = shrunk.model("olmo3", "decoder")
    lm = LM(model, shrunk.tokenizer("olmo3"), "tiny olmo3")

`tests.tiny` names a configuration for each architecture it has; here sizes are recognised by their names, so that a type that
a later transformers brings is built without anyone writing a line. What needs more than that has it in `MORE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import transformers
from transformers.models.auto import modeling_auto as auto

from errata.model.lm import LM
from tests import tiny

WIDTH, INNER, HEADS, SIZE, LAYERS, EXPERTS = 32, 48, 4, 8, 4, 4
MOST = 20_000_000  # parameters of what can be called tiny

_SIZES: Final = (
    (tiny.VOCABULARY, "vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size entity_vocab_size "
     "vocab_size_per_layer_input "
     "audio_vocab_size t2u_vocab_size char_vocab_size unit_hifi_gan_vocab_size pronunciation_vocab_size shape_vocab_size"),
    (WIDTH, "hidden_size d_model n_embd dim emb_dim embedding_size embedding_dim hidden_size_global attention_hidden_size "
     "word_embed_proj_dim lru_width input_embedding_size embed_dim output_embedding_size pooler_hidden_size mamba_d_ssm "
     "true_hidden_size intra_bottleneck_size encoder_hidden_size backbone_hidden_size shape_embed_dim entity_emb_size "
     "pronunciation_embed_dim cross_attention_hidden_size audio_hidden_size linear_d_model kda_d_model output_dim d_latents"),
    (INNER, "intermediate_size ffn_dim d_ff n_inner dff dim_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size hidden_dim "
     "d_inner feed_forward_size shared_expert_intermediate_size shared_intermediate_size dense_intermediate_size "
     "shared_experts_intermediate_size moe_shared_expert_intermediate_size mlp_dim intermediate_size_mlp block_ff_dim "
     "moe_shared_intermediate_size prefix_dense_intermediate_size dense_ffn_hidden_size"),
    (24, "moe_intermediate_size expert_ffn_hidden_size moe_ffn_hidden_size expert_intermediate_size"),
    (HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
     "conf_num_attention_heads "
     "num_encoder_attention_heads num_decoder_attention_heads linear_num_heads index_n_heads "
     "num_self_attention_heads num_cross_attention_heads q_groups k_groups v_groups intermediate_groups output_groups"),
    (2, "num_key_value_heads num_kv_heads kv_n_heads linear_num_key_heads n_group n_groups topk_group num_expert_group "
     "num_experts_per_tok moe_topk moe_k moe_top_k num_experts_per_token top_k top_k_experts num_selected_experts "
     "mamba_ngroups mamba_n_groups altup_num_inputs hc_mult o_groups num_query_groups"),
    (HEADS, "linear_num_value_heads"),
    (8, "mamba_n_heads mamba_num_heads"),
    (SIZE, "head_dim d_kv d_head dim_head linear_key_head_dim linear_value_head_dim linear_head_dim index_head_dim "
     "qk_nope_head_dim qk_rope_head_dim v_head_dim mamba_d_head mamba_headdim attention_head_size global_head_dim kv_channels "
     "hidden_size_per_layer_input laurel_rank sliding_window window_size attention_window_size state_size mamba_d_state "
     "ssm_state_size chunk_size mamba_chunk_size block_size local_attention adapter_rank mamba_head_dim swa_head_dim"),
    (16, "kv_lora_rank q_lora_rank o_lora_rank qk_head_dim time_step_rank index_topk router_hidden_size query_pre_attn_scalar "
     "image_size codebook_dim"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers "
     "num_encoder_layers "
     "depth"),
    (EXPERTS, "num_experts num_local_experts n_routed_experts moe_num_experts rotary_dim"),
    (1, "n_shared_experts num_shared_experts first_k_dense_replace moe_num_shared_experts num_dense_layers "
     "num_nextn_predict_layers moe_layer_start_index num_kv_shared_layers"),
    (128, "max_position_embeddings n_positions max_seq_len max_source_positions max_target_positions n_ctx context_length"),
)  # fmt: skip
_BY_NAME: Final = {name: size for size, names in _SIZES for name in names.split()}
_UNSAID: Final = {"head_dim": SIZE, "num_key_value_heads": HEADS, "num_experts_per_tok": 2}
_LISTS: Final = (
    "layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "indexer_types", "activation_sparsity_pattern",
    "attention_layers", "moe_layer_freq", "num_attention_heads_per_layer", "hybrid_override_pattern", "attn_layers",
    "attn_type_list",
)  # fmt: skip

_MAMBA: Final = {"mamba_n_heads": 8, "mamba_d_head": 8}
_INDEXED: Final = {
    "indexer_n_heads": HEADS, "indexer_kv_heads": 1, "indexer_head_dim": SIZE, "indexer_budget": 16,
    "indexer_compress_ratio": 1, "hc_lowrank": SIZE,
}  # fmt: skip
_SECTIONS: Final = {
    "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
}
MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gemma3n": {"text_config": {"intermediate_size": [INNER] * LAYERS}},
    "gemma3n_text": {"intermediate_size": [INNER] * LAYERS, "num_kv_shared_layers": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "esm": {"vocab_size": tiny.VOCABULARY},
    "esmc": {"num_key_value_heads": HEADS},
    "markuplm": {
        "max_xpath_tag_unit_embeddings": 20,
        "max_xpath_subs_unit_embeddings": 20,
        "tag_pad_id": 19,
        "subs_pad_id": 19,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "mistral4": {"head_dim": 16},
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "glm4v"), _SECTIONS),
    "qwen3_5": {"text_config": {"pad_token_id": 0}},
    "qwen4_exp": {"text_config": _INDEXED},
    "qwen4_exp_text": _INDEXED,
    "zamba": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 16,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def config(model_type: str, kind: str) -> Any:
    """Return the smallest configuration of a type."""
    cls = transformers.CONFIG_MAPPING[model_type]
    said = _smaller(cls())
    said |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} if "vocab_size" in said else {}
    if "is_decoder" in said and not said.get("is_encoder_decoder"):  # else it would look ahead
        said["is_decoder"] = kind == "decoder"
    return cls(**_merged(said, MORE.get(model_type, {})))


def _smaller(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration with every size that is known by its name made small."""
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        part = vars(config).get(name)
        if hasattr(part, "to_dict"):
            found[name] = _smaller(part) | {"model_type": part.model_type}
        elif name in _LISTS and isinstance(value, list | tuple):
            found[name] = _fewer(list(value))
        elif name in _BY_NAME and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[name] = _BY_NAME[name]
        elif value is None and name in _UNSAID:
            found[name] = _UNSAID[name]
        elif name == "per_layer_config" and value:
            found[name] = {i: part for i, part in value.items() if int(i) < LAYERS}
        elif name.endswith("_token_id") and isinstance(value, int) and value >= tiny.VOCABULARY:
            found[name] = tiny.VOCABULARY - 1
        elif name not in ("model_type", "transformers_version", "architectures", "dtype"):
            found[name] = value
    if found.get("kv_lora_rank"):  # every head has its own keys there
        found["num_key_value_heads"] = HEADS
    return found


def _fewer(values: list[Any]) -> list[Any]:
    """Return a list for a few layers that has each kind of them."""
    kinds = [*dict.fromkeys(map(repr, values))]
    firsts = sorted(next(i for i, v in enumerate(values) if repr(v) == kind) for kind in kinds)[:LAYERS]
    rest = [i for i in range(len(values)) if i not in firsts][: LAYERS - len(firsts)]
    return [values[i] for i in sorted([*firsts, *rest])]


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(one[k], v) if isinstance(v, Mapping) and isinstance(one.get(k), Mapping) else v
        for k, v in other.items()
    }
    return {**one, **both}


LOADERS: Final = {
    "decoder": transformers.AutoModelForCausalLM,
    "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    "classifier": transformers.AutoModelForSequenceClassification,
    "image-text": transformers.AutoModelForImageTextToText,  # those that are in none of the lists above
}


def types(kind: str) -> list[str]:
    """Return every model type that transformers has of a kind."""
    names = {
        "decoder": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "encoder-decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "classifier": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "image-text": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    more = {*names["decoder"], *names["encoder-decoder"]} if kind == "image-text" else set()
    return sorted(set(names[kind]) - more)


def model(model_type: str, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Return a random model: matrices of gain about 1, biases and norms away from 0 and 1.

    Raises:
        ValueError: what came out is not tiny.
    """
    small = config(model_type, kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in LOADERS[kind].from_config(small).parameters())
    if count > MOST:
        raise ValueError(f"{count / 1e6:.0f} million parameters are not tiny")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = LOADERS[kind].from_config(small, dtype=torch.float32)
        with torch.no_grad():
            for parameter in made.parameters():
                draw = torch.randn_like(parameter)
                fans = sorted(parameter.shape[-2:])
                parameter.copy_(draw * fans[0] ** -0.5 if parameter.ndim > 1 else parameter + 0.2 * draw)
    return made.to(dtype).eval()


def tokenizer(model_type: str) -> Any:
    """Return a new byte-level tokenizer."""
    return tiny.tokenizer(model_type)


def build(model_type: str, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> LM:
    """Return a new `LM` around a random model of a type."""
    return LM(model(model_type, kind, seed, dtype), tokenizer(model_type), f"tiny {model_type}")
