"""What every part shares: both sides in turn, medians, and counts that do not depend on how busy the machine is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from errata.model.lm import LM
from errata.model.where import PRIMER
from speeds.passes import Count, counting

Work = Callable[[], object]
Row = dict[str, Any]


def counted(model: Any, work: Work) -> Count:
    """Return what work sends through a model."""
    with counting(model) as count:
        work()
    return count


def alternately(works: Mapping[str, Work], repeats: int = 5) -> dict[str, float]:
    """Return each work's median seconds; one after the other in every round, so that what disturbs hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(max(5, repeats)):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def rounded(seconds: Mapping[str, float]) -> Row:
    """Return seconds as fields of a row."""
    return {f"{name}_s": float(f"{value:.4g}") for name, value in seconds.items()}


def random_lm(width: int, layers: int, *, inner: int | None = None, dtype: torch.dtype = torch.float32) -> LM:
    """Return a Llama-type model with random weights and the primer's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(PRIMER)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner or 4 * width, num_hidden_layers=layers, vocab_size=len(tokenizer),
        num_attention_heads=max(1, width // 64), num_key_value_heads=max(1, width // 64), max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return LM(model, tokenizer, f"random {layers}x{width}")
