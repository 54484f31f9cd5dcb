"""What errata must know about an architecture, and the table of those that somebody wrote down.

A `model_type` without a row is found by `errata.model.shape`, from what its modules do; a row wins where there is one.
Orientation is never guessed from a shape: a square matrix stored transposed looks like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["decoder", "encoder-decoder", "encoder", "classifier"]
Cache = Literal["plain", "own", "none"]


@dataclass(frozen=True, slots=True)
class Stack:
    """Paths of one stack of blocks: `blocks` from the model, the others from a block.

    `up` may name one fused matrix (gate and up together). What blocks do not have is "".
    """

    blocks: str
    up: tuple[str, ...]
    down: str
    attention: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """What errata must know about an architecture.

    Args:
        stacks: one, or encoder and decoder; layers are counted through them in this order.
        kind: how text goes in and answers come out; a model with a head that classifies texts is a "classifier", whatever
            its row says (`model.lm`).
        transposed: the matrices are stored (in, out), as GPT-2's Conv1D does.
        post_norm: a norm stands between `down` and the residual stream, so a value there is not a vector added to it.
        skips: blocks below a layer may be left out when their output is known (T5's first block
            computes a bias for all).
        experts: the feed-forward part of some blocks is a set of experts; there is no dense `down` in them.
        by_layer: what is called otherwise in some layers, by their number: hybrids have blocks of several kinds.
        cache: what a text can be gone on with: keys and values in a plain list, only what the model makes for itself (states
            of a recurrence), or nothing, and texts are read again for each token.
    """

    stacks: tuple[Stack, ...]
    kind: Kind = "decoder"
    transposed: bool = False
    post_norm: bool = False
    skips: bool = True
    experts: bool = False
    by_layer: Mapping[int, Stack] = field(default_factory=dict)
    cache: Cache = "plain"


_LLAMA = Stack("model.layers", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "self_attn.o_proj")
_EXPERTS = Stack("model.layers", (), "", "self_attn.o_proj")
_GPT2 = Stack("transformer.h", ("mlp.c_fc",), "mlp.c_proj", "attn.c_proj")
_GPTJ = Stack("transformer.h", ("mlp.fc_in",), "mlp.fc_out", "attn.out_proj")
_NEOX = Stack("gpt_neox.layers", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "attention.dense")
_FALCON = Stack("transformer.h", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "self_attention.dense")
_PHI3 = Stack("model.layers", ("mlp.gate_up_proj",), "mlp.down_proj", "self_attn.o_proj")
_PHI = Stack("model.layers", ("mlp.fc1",), "mlp.fc2", "self_attn.dense")
_OPT = Stack("model.decoder.layers", ("fc1",), "fc2", "self_attn.out_proj")
_NEO = Stack("transformer.h", ("mlp.c_fc",), "mlp.c_proj", "attn.attention.out_proj")
_GEMMA3 = Stack("model.language_model.layers", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "self_attn.o_proj")
_T5 = (
    Stack("encoder.block", ("layer.1.DenseReluDense.wi",), "layer.1.DenseReluDense.wo", "layer.0.SelfAttention.o"),
    Stack("decoder.block", ("layer.2.DenseReluDense.wi",), "layer.2.DenseReluDense.wo", "layer.0.SelfAttention.o"),
)
_T5_GATED = tuple(replace(stack, up=(f"{stack.up[0]}_0", f"{stack.up[0]}_1")) for stack in _T5)
_BERT = Stack("bert.encoder.layer", ("intermediate.dense",), "output.dense", "attention.output.dense")

TABLE: Mapping[str, Architecture] = {
    "bert": Architecture((_BERT,), kind="encoder"),
    "bloom": Architecture((_FALCON,)),
    "falcon": Architecture((_FALCON,)),
    "gemma": Architecture((_LLAMA,)),
    "gemma2": Architecture((_LLAMA,), post_norm=True),
    "gemma3": Architecture((_GEMMA3,), post_norm=True),
    "gemma3_text": Architecture((_LLAMA,), post_norm=True),
    "gpt2": Architecture((_GPT2,), transposed=True),
    "gpt_neo": Architecture((_NEO,)),
    "gpt_neox": Architecture((_NEOX,)),
    "gptj": Architecture((_GPTJ,)),
    "llama": Architecture((_LLAMA,)),
    "mistral": Architecture((_LLAMA,)),
    "mixtral": Architecture((_EXPERTS,), experts=True),
    "olmo2": Architecture((_LLAMA,), post_norm=True),
    "opt": Architecture((_OPT,)),
    "phi": Architecture((_PHI,)),
    "phi3": Architecture((_PHI3,)),
    "qwen2": Architecture((_LLAMA,)),
    "qwen3": Architecture((_LLAMA,)),
    "qwen3_moe": Architecture((_EXPERTS,), experts=True),
    "smollm3": Architecture((_LLAMA,)),
    "t5": Architecture(_T5, kind="encoder-decoder", skips=False),
}

# Where a setting of the configuration, (model_type, name, value), makes another architecture of a model type.
_VARIANTS: Mapping[tuple[str, str, object], Architecture] = {
    ("opt", "do_layer_norm_before", False): Architecture((_OPT,), post_norm=True),  # OPT-350M
    ("t5", "is_gated_act", True): Architecture(_T5_GATED, kind="encoder-decoder", skips=False),  # T5 v1.1
}

# The published models methods were tuned on, told by their shape: model_type, width, layers, vocabulary.
_PUBLISHED: Mapping[tuple[str, int, int, int], str] = {
    ("gpt2", 1600, 48, 50257): "gpt2-xl",
    ("gptj", 4096, 28, 50400): "gpt-j-6b",
    ("llama", 4096, 32, 32000): "llama-2-7b",
    ("llama", 4096, 32, 128256): "llama-3-8b",
    ("mistral", 4096, 32, 32000): "mistral-7b",
    ("mistral", 4096, 32, 32768): "mistral-7b",
    ("qwen2", 3584, 28, 152064): "qwen2.5-7b",
    ("llama", 192, 7, 2706): "primer",
}


def row(model_type: str, config: object = None) -> Architecture | None:
    """Return the row of a `model_type`, or of the variant of it that `config`'s attributes tell; None if nobody wrote one."""
    for (kind, name, value), variant in _VARIANTS.items():
        if kind == model_type and getattr(config, name, None) is value:
            return variant
    return TABLE.get(model_type)


def published(model_type: str, width: int, layers: int, vocabulary: int) -> str:
    """Return the name of the published model of this shape, or an empty string."""
    return _PUBLISHED.get((model_type, width, layers, vocabulary), "")
