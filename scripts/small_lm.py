"""Train a small Llama- or GPT-2-type model on statements, so that it can be edited as large models are.

A small model that can tell subjects apart by any one rare token need not gather a fact at the subject's last token,
which is where locate-then-edit methods write. Two things bring it about: names that only identify as a whole, and, in
most batches, an attention mask that forbids positions after a subject to look at the subject's earlier tokens.

What makes it fast is the optimiser (Muon for the blocks' matrices) and the order: few subjects first. The circuits that
gather a name and read facts off it form within minutes on a small population and serve all afterwards (Zucchet et al.,
How do language models learn facts?, arXiv 2503.21676).
"""

from __future__ import annotations

import gzip
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"
CONTEXT = 128  # row length in training; rows are packed with whole sentences
ROWS, LR = 8, 5e-3  # of a step
MASKED = 0.8  # share of steps in which a subject is seen through its last token only


@dataclass(frozen=True, slots=True)
class Statement:
    """One fact in every wording: (prompt, answer) with the subject somewhere in the prompt."""

    subject: str
    wordings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shape:
    """Size and kind of the model."""

    kind: str = "llama"
    vocabulary: int = 3072  # at most, for the tokenizer; then as many as it found
    width: int = 192
    inner: int = 640
    heads: int = 6
    head: int = 0  # width of one; 0: a share of the model's
    layers: int = 7


# ------------------------------------------------------------------------------------------------ tokenizer


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE; every text begins with <s> and, as a word does, with a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    start = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[start])
    return tokenizer


# ------------------------------------------------------------------------------------------------ data


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids; first and last token of the subject; first token of the answer."""

    ids: list[int]
    first: int
    last: int
    answer: int


class Telling:
    """Statements as token ids, told one wording at a time, with prose in between.

    Args:
        statements: what to tell.
        sentence: makes one sentence of prose, for prefixes.
        scenes: longer prose, without end.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        tokenizer: Tokenizer,
        sentence: Callable[[random.Random], str],
        scenes: Iterator[str],
    ) -> None:
        self.tokenizer, self.bos, self.eos = tokenizer, tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        self.items = [[self.encode(p, s.subject, a) for p, a in s.wordings] for s in statements]
        self._sentence, self._scenes = sentence, scenes
        subjects = sorted({s.subject for s in statements})
        random.Random(0).shuffle(subjects)
        self.order = {subject: i / len(subjects) for i, subject in enumerate(subjects)}
        self._place = [self.order[s.subject] for s in statements]
        self.share = 1 / 6  # of the subjects, for now

    def encode(self, prompt: str, subject: str, answer: str) -> Document:
        """Return a statement without special tokens."""
        encoding = self.tokenizer.encode(f"{prompt} {answer}.", add_special_tokens=False)
        start = prompt.index(subject)
        places = (encoding.char_to_token(at) for at in (start, start + len(subject) - 1, len(prompt) + 1))
        first, last, begin = (place if place is not None else -1 for place in places)
        assert min(first, last, begin) >= 0, prompt
        return Document(encoding.ids, first, last, begin)

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Yield documents without end: statements, a third after a random prefix, and a scene for every forty."""
        while True:
            epoch = [item for item, place in zip(self.items, self._place, strict=True) if place < self.share]
            rng.shuffle(epoch)
            for wordings in epoch:
                told = rng.choice(wordings)
                prefix = self._prefix(rng) if rng.random() < 1 / 3 else []
                ids, shift = [self.bos, *prefix, *told.ids, self.eos], 1 + len(prefix)
                yield Document(ids, told.first + shift, told.last + shift, told.answer + shift)
                if rng.random() < 1 / 40:
                    scene = self.tokenizer.encode(next(self._scenes), add_special_tokens=False).ids
                    yield Document([self.bos, *scene[: CONTEXT - 2], self.eos], 0, 0, 1)

    def _prefix(self, rng: random.Random) -> list[int]:
        """A few tokens of prose or of another statement."""
        if rng.random() < 0.5:
            ids = self.tokenizer.encode(self._sentence(rng), add_special_tokens=False).ids
        else:
            ids = rng.choice(rng.choice(self.items)).ids
        return ids[: rng.randint(2, 14)]

    def batches(self, rng: random.Random, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield (ids, document, position, stage, weight), each (rows, CONTEXT), packed with whole documents.

        Stage 1 marks the subject's tokens before its last, stage 2 what follows it. Weights are low where nothing can
        be predicted (names, prefixes).
        """
        documents = self.documents(rng)
        waiting = [next(documents) for _ in range(64)]
        while True:
            ids = torch.zeros(rows, CONTEXT, dtype=torch.long)
            document, position, stage = torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros_like(ids)
            weight = torch.full((rows, CONTEXT), 0.2)
            for row in range(rows):
                at, number = 0, 1
                while number <= 40:
                    fit = next((i for i, d in enumerate(waiting) if len(d.ids) <= CONTEXT - at), None)
                    if fit is None:
                        break
                    told = waiting.pop(fit)
                    waiting.append(next(documents))
                    end = at + len(told.ids)
                    ids[row, at:end] = torch.tensor(told.ids)
                    document[row, at:end] = number
                    position[row, at:end] = torch.arange(len(told.ids))
                    if told.last > told.first:
                        stage[row, at + told.first : at + told.last] = 1
                        stage[row, at + told.last + 1 : end] = 2
                    weight[row, at + told.answer : end] = 1.0
                    at, number = end, number + 1
            yield ids, document, position, stage, weight


# ------------------------------------------------------------------------------------------------ models


def _visible(document: Tensor, stage: Tensor, masked: Tensor) -> Tensor:
    """Return who may look at whom, (b, 1, t, t): back in one's document, not at a subject's early tokens if masked."""
    mask = (document[:, :, None] == document[:, None, :]).tril()
    return (mask & ~(masked[:, None, None] & (stage[:, :, None] == 2) & (stage[:, None, :] == 1)))[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class _LlamaBlock(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.input_layernorm = nn.RMSNorm(shape.width, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=1e-6)
        inside = shape.heads * shape.head or shape.width
        sizes = dict.fromkeys(("q_proj", "k_proj", "v_proj"), (shape.width, inside)) | {"o_proj": (inside, shape.width)}
        self.self_attn = nn.ModuleDict({n: nn.Linear(*size, bias=False) for n, size in sizes.items()})
        sizes = {"gate_proj": (shape.width, shape.inner), "up_proj": (shape.width, shape.inner)}
        sizes["down_proj"] = (shape.inner, shape.width)
        self.mlp = nn.ModuleDict({n: nn.Linear(*size, bias=False) for n, size in sizes.items()})

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        b, t, _ = x.shape
        normed = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[n](normed).view(b, t, self.heads, -1).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj")
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        x = x + self.self_attn["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        normed = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


class Llama(nn.Module):
    """Names follow transformers' LlamaForCausalLM, so that the state dict is the checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(_LlamaBlock(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        head = shape.head or shape.width // shape.heads
        angle = torch.arange(512)[:, None] / 10000 ** (torch.arange(0, head, 2) / head)
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)
        _initialise(self, ("o_proj.weight", "down_proj.weight"), shape.layers)

    def forward(self, ids: Tensor, document: Tensor, position: Tensor, stage: Tensor, masked: Tensor) -> Tensor:
        """Return logits (b, t, v)."""
        cos, sin, mask = self.cos[position][:, None], self.sin[position][:, None], _visible(document, stage, masked)
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, cos, sin, mask)
        return F.linear(self.norm(x), self.embed_tokens.weight)


class _GPT2Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(shape.width, 3 * shape.width), "c_proj": nn.Linear(shape.width, shape.width)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(shape.width, shape.inner), "c_proj": nn.Linear(shape.inner, shape.width)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.attn["c_attn"](self.ln_1(x)).split(d, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Names follow transformers' GPT2LMHeadModel; its Conv1D weights are these transposed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(shape.vocabulary, shape.width), nn.Embedding(512, shape.width)
        self.h = nn.ModuleList(_GPT2Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width)
        _initialise(self, ("c_proj.weight",), shape.layers)

    def forward(self, ids: Tensor, document: Tensor, position: Tensor, stage: Tensor, masked: Tensor) -> Tensor:
        """Return logits (b, t, v)."""
        mask, x = _visible(document, stage, masked), self.wte(ids) + self.wpe(position)
        for block in self.h:
            x = block(x, mask)
        return F.linear(self.ln_f(x), self.wte.weight)


def _initialise(model: nn.Module, residual: tuple[str, ...], layers: int) -> None:
    for name, p in model.named_parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=0.02 / (math.sqrt(2 * layers) if name.endswith(residual) else 1))


def loss_of(model: nn.Module, batch: tuple[Tensor, ...], masked: Tensor) -> Tensor:
    """Weighted mean next-token loss within documents."""
    ids, document, position, stage, weight = batch
    logits = model(ids, document, position, stage, masked)
    inside = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] > 0)
    each = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = (weight[:, 1:] * inside).flatten()
    return (each * weight).sum() / weight.sum()


# ------------------------------------------------------------------------------------------------ training


def in_block(name: str) -> bool:
    """Say whether a parameter is of a block, by its name in the models made here."""
    return ".h." in f".{name}" or "layers" in name


def optimizers(model: nn.Module, lr: float, inside: Callable[[str], bool] = in_block) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, which `inside` tells by their names, AdamW for embeddings, norms and biases.

    Muon learns many rare facts several times faster: on the first sixth of the primer's world it was at 93 % after 208
    steps where AdamW was at 26 % after 389, on the same clock.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and inside(name)]
    other = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.AdamW(other, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]


def pace(stack: Sequence[torch.optim.Optimizer], lr: float, step: int, steps: int) -> None:
    """Set the rate of a step: it rises for a hundred steps, is flat for half of the run, then falls to 2 %."""
    for optimizer in stack:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * min(1, 0.02 + 0.98 * 2 * (1 - step / steps))


def descend(model: nn.Module, stack: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
    """Take one step down a loss, its gradient cut to norm 1."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in stack:
        optimizer.step()
        optimizer.zero_grad()


def share(done: float) -> float:
    """Return the share of subjects told of at a point of the run: few first, all from 15 % on."""
    return 1 / 6 if done < 0.05 else 1 / 2 if done < 0.15 else 1


@torch.no_grad()
def accuracy(model: nn.Module, telling: Telling, documents: Sequence[Document], count: int = 300) -> float:
    """Share of sampled statements whose answer and full stop are all argmax, teacher-forced."""
    chosen = random.Random(1).sample(list(documents), min(count, len(documents)))
    right, device = 0, next(model.parameters()).device
    for told in chosen:
        row = torch.tensor([[telling.bos, *told.ids]], device=device)
        one, places = torch.ones_like(row), torch.arange(row.shape[1], device=device)[None]
        logits = model(row, one, places, one * 0, torch.zeros(1, dtype=torch.bool, device=device))
        right += bool((logits[0, told.answer : -1].argmax(-1) == row[0, told.answer + 1 :]).all())
    return right / len(chosen)


def train(
    telling: Telling,
    shape: Shape,
    steps: int,
    watch: dict[str, Sequence[Document]],
    device: str = "cpu",
) -> nn.Module:
    """Train for `steps` with seed 0: the rate is flat for half of them, then falls linearly to 2 %.

    Args:
        watch: documents whose accuracy is printed now and then, by name.
    """
    torch.manual_seed(0)
    rng, model = random.Random(0), {"llama": Llama, "gpt2": GPT2}[shape.kind](shape).to(device)
    step_loss = torch.compile(lambda batch, masked: loss_of(model, batch, masked))
    stack, data = optimizers(model, LR), telling.batches(rng, ROWS)
    start, average = time.time(), 0.0
    for step in range(steps):
        pace(stack, LR, step, steps)
        telling.share = share(step / steps)
        batch = tuple(part.to(device, non_blocking=True) for part in next(data))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            loss = step_loss(batch, torch.full((ROWS,), rng.random() < MASKED, device=device))
        descend(model, stack, loss)
        average = loss.detach() if step == 0 else 0.98 * average + 0.02 * loss.detach()
        if step % 300 == 0:
            scores = "  ".join(f"{name} {accuracy(model, telling, docs):.3f}" for name, docs in watch.items())
            print(f"{(time.time() - start) / 60:6.1f} min  step {step:5d}  loss {average:.4f}  {scores}", flush=True)
    return model


# ------------------------------------------------------------------------------------------------ checkpoint


def export(model: nn.Module, tokenizer: Tokenizer, shape: Shape, directory: Path) -> None:
    """Write a Hugging Face checkpoint in bfloat16."""
    common = {"vocab_size": shape.vocabulary, "tie_word_embeddings": True}
    common |= {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(EOS)}
    state = {name: value.to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    checkpoint: LlamaForCausalLM | GPT2LMHeadModel
    if shape.kind == "llama":
        config = LlamaConfig(
            hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=512,
            head_dim=shape.head or None, rms_norm_eps=1e-6, rope_theta=10000.0, **common,
        )  # fmt: skip
        checkpoint, state = LlamaForCausalLM(config), {f"model.{name}": value for name, value in state.items()}
    else:
        checkpoint = GPT2LMHeadModel(
            GPT2Config(
                n_embd=shape.width,
                n_inner=shape.inner,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_positions=512,
                **common,
            )
        )
        turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        state = {f"transformer.{n}": v.T.contiguous() if n.endswith(turned) else v for n, v in state.items()}
    checkpoint = checkpoint.bfloat16()
    missing = checkpoint.load_state_dict(state, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], []), missing  # tied to the embedding
    checkpoint.save_pretrained(directory)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    fast.save_pretrained(directory)
