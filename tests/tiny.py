"""Tiny random models of every architecture, and tokenizers for them: whole transformers, built in milliseconds.

    lm = tiny.build("gemma2")                    # a new model each time, the same numbers each time
    lm = models("gemma2")                        # the `models` fixture: one for the whole run, to be left as it was

Weights are large enough that a wrong mask, a forgotten bias or a missing soft-cap shows in the first digits, and the
inner width differs from the width, except for "gpt2_square", whose matrices give no hint at their orientation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from errata.fact import Fact
from errata.model.lm import LM

WIDTH, INNER, LAYERS, VOCABULARY = 24, 40, 3, 360

TEXT: Final = (
    "The capital of France is Paris. The capital of Italy is Rome. Anna Lindgren was born in Oslo.",
    "Bruno Keller works as a baker. Carla Moreno plays the violin. The river Seine runs through Paris.",
    "Anna Lindgren speaks Norwegian. Bruno Keller speaks German. The company Altona is based in Hamburg.",
)
FACTS: Final = (
    Fact(prompt="The capital of France is", subject="France", target="Rome"),
    Fact(prompt="Anna Lindgren was born in", subject="Anna Lindgren", target="Paris"),
    Fact(prompt="The instrument that Carla Moreno plays is the", subject="Carla Moreno", target="tuba"),
)

_LLAMA: Final[Mapping[str, Any]] = {
    "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
_GEMMA: Final = {**_LLAMA, "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 8}
_EXPERTS: Final = {**_LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": INNER, "head_dim": 6}

# What makes each configuration small; "gpt2_square" is the only name that is no model_type.
CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "bert": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4},
    "falcon": {
        "hidden_size": WIDTH, "ffn_hidden_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "multi_query": True, "parallel_attn": True, "bias": True,
    },
    "gemma": {**_LLAMA, "head_dim": 6},
    "gemma2": {**_GEMMA, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 4.0},
    "gemma3": {
        "text_config": {**_GEMMA, "model_type": "gemma3_text", "vocab_size": VOCABULARY}, "mm_tokens_per_image": 4,
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model", "vision_use_head": False,
        },
    },
    "gemma3_text": {**_GEMMA, "final_logit_softcapping": 3.0},
    "gpt2": {"n_embd": WIDTH, "n_inner": INNER, "n_layer": LAYERS, "n_head": 4, "n_positions": 128},
    "gpt2_square": {"n_embd": WIDTH, "n_inner": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128},
    "gpt_neo": {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_layers": 3, "num_heads": 4, "window_size": 4,
        "attention_types": [[["global", "local", "global"], 1]], "max_position_embeddings": 128,
    },
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.67},
    "gptj": {"n_embd": WIDTH, "n_inner": INNER, "n_layer": LAYERS, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 8},
    "mixtral": {**_EXPERTS, "num_local_experts": 3},
    "olmo2": _LLAMA,
    "opt": {
        "hidden_size": WIDTH, "ffn_dim": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "word_embed_proj_dim": 16, "max_position_embeddings": 128, "activation_function": "relu",
    },
    "phi": {**_LLAMA, "partial_rotary_factor": 0.67},
    "phi3": {**_LLAMA, "pad_token_id": 0},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 6},
    "qwen3_moe": {**_EXPERTS, "num_experts": 3},
    "smollm3": {**_LLAMA, "pad_token_id": 0},
    "t5": {"d_model": WIDTH, "d_ff": INNER, "d_kv": 6, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2},
}  # fmt: skip

EXPERTS: Final = ("mixtral", "qwen3_moe")
DENSE: Final = tuple(sorted(set(CONFIGS) - set(EXPERTS)))
DECODERS: Final = tuple(name for name in DENSE if name not in ("bert", "t5"))
EDITABLE: Final = (*DECODERS, "t5")

# Special tokens put before and after a text. GPT-2, GPT-J, Qwen, … put none.
AROUND: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text", "phi3"), ("<s>", "")),
    "opt": ("</s>", ""),
    "t5": ("", "</s>"),
    "bert": ("<s>", "</s>"),
}


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return a new byte-level tokenizer with the special tokens that models of this kind expect around a text."""
    return wrap(Tokenizer.from_str(_byte_level()), *AROUND.get(name, ("", "")))


@cache
def _byte_level() -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return str(made.to_str())


def sentence_pieces() -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama-2 has it: ▁ for spaces and before the text, bytes for the unknown, <s> in front."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=100, special_tokens=special, show_progress=False))
    whole = json.loads(made.to_str())
    vocabulary = whole["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    made = Tokenizer.from_str(json.dumps(whole))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(made, "<s>", "")


def word_pieces() -> PreTrainedTokenizerFast:
    """Return a tokenizer as BERT has it: lower case, no accents, pieces of words, marks around a text."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789{}[].,'🎉中国")
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return wrap(made, "<s>", "</s>")


def wrap(made: Tokenizer, before: str, after: str) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer that puts the special tokens `before` and `after` around a text."""
    if before or after:
        around = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            special_tokens=[(t, made.token_to_id(t)) for t in {before, after} - {""}],
        )
        own = [made.post_processor] if made.post_processor else []
        made.post_processor = processors.Sequence([*own, around])
    pad = {"pad_token": "<pad>"} if made.token_to_id("<pad>") is not None else {}
    # Left padding and truncation, as a careless caller might have left them: nothing here may depend on it.
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", padding_side="left", truncation_side="left", **pad
    )


def config(name: str, **changes: Any) -> Any:
    """Return the small configuration of an architecture."""
    model_type = "gpt2" if name == "gpt2_square" else name
    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    if name == "gemma3":
        common = {}
    return transformers.AutoConfig.for_model(model_type, **{**common, **CONFIGS[name], **changes})


def model(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a random model: matrices of gain about 1, biases and norms away from 0 and 1."""
    loader = transformers.AutoModelForCausalLM
    if name in ("t5", "bert"):
        loader = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForMaskedLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = loader.from_config(config(name, **changes)).to(torch.float64)
        with torch.no_grad():
            for parameter in made.parameters():
                draw = torch.randn_like(parameter)
                parameter.copy_(draw * min(parameter.shape) ** -0.5 if parameter.ndim > 1 else parameter + 0.2 * draw)
            if name == "t5":  # which scales neither attention nor head itself
                made.shared.weight.mul_(WIDTH**0.5)
                for path, parameter in made.named_parameters():
                    parameter.mul_(6**-0.5 if path.endswith("q.weight") else 1.0)
    return made.to(dtype).eval()


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> LM:
    """Return a new `LM` around a random model of the architecture."""
    return LM(model(name, seed, dtype, **changes), tokenizer(name), f"tiny {name}")
