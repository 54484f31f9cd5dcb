"""What follows a prompt, token by token, for many prompts at once and the same for each as if it were alone.

Prompts of one length run together, so nothing is padded, and positions need no correction on any architecture; rows
that have come to an end leave the batch. Sampling takes its random numbers from the prompt and a seed, not from the
batch.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import NotFinite, UnsupportedModel
from errata.model.arch import Architecture
from errata.model.tokens import Batch, Tokens
from errata.model.trace import Modules, answers_only

# From logits (b, v), the places of these rows among all starts, and the step, to the next tokens (b,).
Pick = Callable[[Tensor, Sequence[int], int], Tensor]
# From the place of a row among all starts and its next token to whether its text ends there.
Ends = Callable[[int, int], bool]


@runtime_checkable
class Speaker(Modules, Protocol):
    """What is needed of a model that is to go on with a text; an `LM` is one."""

    model: Any
    name: str
    row: Architecture
    tokens: Tokens
    weights: Any

    @property
    def device(self) -> torch.device:
        """Where inputs go."""


def greedy(logits: Tensor, places: Sequence[int], step: int) -> Int[Tensor, " b"]:
    """Pick the likeliest token."""
    return logits.argmax(-1)


def top_k(keys: Sequence[str], length: int, seed: int, k: int = 5) -> Pick:
    """Return a pick among the `k` likeliest by their probabilities; row i draws from `keys[i]` and the seed alone."""
    draws = np.array([_uniform(f"{seed}:{key}", length) for key in keys])  # (n, length)

    def pick(logits: Tensor, places: Sequence[int], step: int) -> Tensor:
        values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
        below = values.double().softmax(-1).cumsum(-1).cpu()
        drawn = torch.from_numpy(draws[list(places), step])[:, None]
        choice = (below < drawn).sum(-1, keepdim=True).clamp(max=ids.shape[1] - 1)
        return ids.gather(1, choice.to(ids.device))[:, 0]

    return pick


def _uniform(key: str, length: int) -> Any:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(length)


def context(lm: Speaker) -> int:
    """Return how many positions the model has; a large number where it has no limit."""
    config = lm.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 10**9) if lm.row.kind != "encoder-decoder" else 10**9


@torch.no_grad()
def generate_tokens(
    lm: Speaker,
    starts: Sequence[Sequence[int]],
    length: int,
    *,
    pick: Pick = greedy,
    ends: Ends | None = None,
    rows: int = 64,
) -> list[list[int]]:
    """Return up to `length` tokens that follow each start.

    Args:
        starts: token ids, none empty. A start that leaves no room in the model's context is followed by nothing.
        pick: how the next token is chosen.
        ends: whether a token is the last of its text (it is still returned); nothing ends a text unless given.
        rows: how many run together.

    Raises:
        UnsupportedModel: the model is an encoder.
    """
    if lm.row.kind in ("encoder", "classifier"):
        raise UnsupportedModel(f"{lm.name} is an encoder and cannot generate text; ask it for probabilities instead.")
    found: list[list[int]] = [[] for _ in starts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, start in enumerate(starts):
        by_length[len(start)].append(place)
    for width, places in sorted(by_length.items()):
        room = min(length, context(lm) - width)
        for at in range(0, len(places), rows):
            part = places[at : at + rows]
            for place, token in _run(lm, torch.tensor([starts[p] for p in part]), part, room, pick, ends):
                found[place].append(token)
    return found


def _run(
    lm: Speaker,
    ids: Int[Tensor, "b t"],
    places: Sequence[int],
    length: int,
    pick: Pick,
    ends: Ends | None,
) -> Iterator[tuple[int, int]]:
    """Yield (place, token) step by step until every text has ended."""
    feed, places = _Feed(lm, ids.to(lm.device)), list(places)
    for step in range(length):
        tokens = pick(feed.logits(), places, step)
        said = tokens.tolist()
        yield from zip(places, said, strict=True)
        going = [i for i, token in enumerate(said) if ends is None or not ends(places[i], token)]
        if not going:
            return
        if len(going) < len(places):
            places = [places[i] for i in going]
            feed.keep(torch.tensor(going))
            tokens = tokens[going]
        feed.add(tokens)


class _Feed:
    """A batch being continued: what the model has read (its cache) and what it reads next; all of it, if it keeps no cache."""

    def __init__(self, lm: Speaker, ids: Int[Tensor, "b t"]) -> None:
        self._lm, self._mask, self._cache, self._encoded = lm, torch.ones_like(ids), None, None
        if (
            getattr(lm.model.base_model, "rope_deltas", None) is not None
        ):  # how far images moved positions in the last text
            lm.model.base_model.rope_deltas = None
        self._next, self._keeps, self._ends = ids, lm.row.cache != "none", ids.shape[1] - 1
        if lm.row.kind == "encoder-decoder":
            self._encoded = lm.model.get_encoder()(input_ids=ids, attention_mask=self._mask)
            self._next = torch.full_like(ids[:, :1], lm.tokens.start)

    def logits(self) -> Float[Tensor, "b v"]:
        """Read what is next and return the logits of what follows, in float32 or better."""
        model, ids = self._lm.model, self._next
        cached = {"past_key_values": self._cache, "use_cache": True} if self._keeps else {"use_cache": False}
        common = {"attention_mask": self._mask, **cached}
        last = torch.arange(len(ids), device=ids.device), torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        with answers_only(self._lm, *last), self._reading(ids):
            if self._encoded is None:
                out = model(input_ids=ids, **common)
            else:
                out = model(encoder_outputs=self._encoded, decoder_input_ids=ids, **common)
        self._cache = out.past_key_values if self._keeps else None
        found: Tensor = out.logits[0]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _reading(self, ids: Int[Tensor, "b t"]) -> AbstractContextManager[None]:
        """Say where the prompts end in a pass that reads them again with what follows."""
        if self._keeps or self._encoded is not None:
            return nullcontext()
        ends = torch.full_like(ids[:, 0], self._ends)
        batch = replace(Batch.unlabelled({"input_ids": ids, "attention_mask": self._mask}), ends=ends)
        found: AbstractContextManager[None] = self._lm.weights.grafts.reading(batch)
        return found

    def add(self, tokens: Int[Tensor, " b"]) -> None:
        """Let each row go on with a token."""
        tokens = tokens[:, None].to(self._mask.device)
        self._next = tokens if self._keeps else torch.cat([self._next, tokens], dim=1)
        if self._encoded is None:
            self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)

    def keep(self, index: Int[Tensor, " s"]) -> None:
        """Let only some rows go on; `index` is on the CPU, whose indices every device takes."""
        self._mask = self._mask[index]
        if self._keeps:
            assert self._cache is not None
            self._cache.batch_select_indices(index)
        else:
            self._next = self._next[index]
        self._lm.weights.grafts.keep(index)
        if self._encoded is not None:
            self._encoded = type(self._encoded)(last_hidden_state=self._encoded[0][index])


@torch.no_grad()
def sample_tokens(
    lm: Speaker, ids: Int[Tensor, "n 1"], length: int, seed: int, stops: Sequence[int]
) -> list[list[int]]:
    """Return what the model draws after each of some first tokens; global random state is untouched.

    Args:
        stops: the tokens that end a text.

    Raises:
        NotFinite: there is nothing to draw from.
    """
    how = type(lm.model.generation_config)(
        pad_token_id=lm.tokens.pad, eos_token_id=list(stops) or None, decoder_start_token_id=lm.tokens.start,
        max_new_tokens=length, do_sample=True, top_k=0,
    )  # fmt: skip
    given = {"attention_mask": torch.ones_like(ids), "logits_processor": [_finite]}
    cuda = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _ignoring_checkpoint_defaults(lm.model):
        torch.manual_seed(seed)
        out: Tensor = lm.model.generate(ids, generation_config=how, **given)
    found: list[list[int]] = out[:, 1:].tolist()
    return found


@contextmanager
def _ignoring_checkpoint_defaults(model: Any) -> Iterator[None]:
    """Set aside the penalties and temperatures that came with the checkpoint: transformers mixes them into every
    generation, and what is asked here is what the model says."""
    before = model.generation_config
    model.generation_config = type(before)()
    try:
        yield
    finally:
        model.generation_config = before


def _finite(ids: Tensor, scores: Tensor) -> Tensor:
    if not bool(scores.isfinite().all()):
        raise NotFinite("the model's logits are not finite, so nothing can be sampled; load it in float32 or bfloat16.")
    return scores
