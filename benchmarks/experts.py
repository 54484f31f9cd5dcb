"""The primer as a mixture of experts, and ROME on it beside ROME on the dense one.

    python benchmarks/experts.py train DIRECTORY [--steps 300] [--experts 4] [--open 2]
    python benchmarks/experts.py compare DIRECTORY [--edits 20]

Sparse upcycling (Komatsuzaki et al., https://arxiv.org/abs/2212.05055): every expert begins as the primer's feed-forward part
with a little noise, the router as noise, and all of it is trained further on the primer's own text, so that experts differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from errata.model.lm import LM
from errata.model.loading import load
from errata.stats.corpus import open_corpus


def upcycled(dense: Any, experts: int, opened: int) -> Any:
    """Return a Mixtral that computes nearly what a Llama does."""
    known = dense.config.to_dict()
    shared = {name: known[name] for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "bos_token_id",
        "eos_token_id",
    )}  # fmt: skip
    config = transformers.MixtralConfig(**shared, num_local_experts=experts, num_experts_per_tok=opened)
    made = transformers.MixtralForCausalLM(config).float()
    made.load_state_dict({k: v for k, v in dense.state_dict().items() if ".mlp." not in k}, strict=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for ours, theirs in zip(made.model.layers, dense.model.layers, strict=True):
            mlp = theirs.mlp
            both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).float()
            for tensor, matrix in (
                (ours.mlp.experts.gate_up_proj, both),
                (ours.mlp.experts.down_proj, mlp.down_proj.weight),
            ):
                noise = torch.randn_like(tensor) * matrix.float().std() * 0.3
                tensor.copy_(matrix.float()[None] + noise)
            ours.mlp.gate.weight.normal_(std=0.1)
    return made


def train(directory: Path, steps: int, experts: int, opened: int) -> None:
    """Write the trained mixture of experts."""
    dense = load("primer", dtype="float32")
    model = upcycled(dense.model, experts, opened)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.time()
    for step, (ids, real) in enumerate(open_corpus("primer").batches(dense, 10**9, context=128, rows=48)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        out = model(input_ids=ids, attention_mask=real.long(), labels=ids.masked_fill(~real, -100))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}: loss {out.loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
        if step >= steps - 1:
            break
    model.eval().save_pretrained(directory)
    dense.tokenizer.save_pretrained(directory)


def compare(directory: Path, edits: int) -> None:
    """Print what ROME does on the dense primer and on the experts, each edit alone and taken back."""
    from benchmarks.primer import independent, table

    from errata import methods
    from errata.data.cases import parse
    from errata.evaluate.rows import score

    found = {}
    for name, lm in (("dense", load("primer", dtype="float32")), ("experts", load(str(directory)))):
        cases = list(parse(f"primer:{edits}", seed=1))
        print(f"{name}: loss {loss_of(lm):.3f} on the primer's text", flush=True)
        base = score(lm, cases)
        for method in ("rome", "lora", "melo", "grace"):
            rows, seconds = independent(lm, methods.make(method, {}), cases, base)
            found[f"{method}, {name}"] = rows
            print(name, method, f"{sum(seconds) / len(seconds):.2f} s an edit", flush=True)
            print(table({f"{method}, {name}": rows}), flush=True)
    print(table(found))


def loss_of(lm: LM, tokens: int = 4000) -> float:
    """Return the mean loss on the primer's text."""
    total, count = 0.0, 0
    for ids, real in open_corpus("primer").batches(lm, tokens):
        with torch.no_grad():
            out = lm.model(input_ids=ids, attention_mask=real.long(), labels=ids.masked_fill(~real, -100))
        total, count = total + float(out.loss) * int(real.sum()), count + int(real.sum())
    return total / count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--open", type=int, default=2)
    parser.add_argument("--edits", type=int, default=20)
    given = parser.parse_args()
    if given.what == "train":
        train(given.directory, given.steps, given.experts, given.open)
    else:
        compare(given.directory, given.edits)
