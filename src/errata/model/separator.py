"""Document separator: the token that a model without a BOS read before each of its training documents.

Models are trained on documents that follow a separator. Where the tokenizer puts nothing before a text, a prompt's first
token takes the separator's place: its hidden state is a sink that others attend to (an attention sink: Xiao et al., arXiv
2309.17453), and what it says is lost, be it the subject. Opened by its separator, a model reads a prompt as it read documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, Final

import torch
from torch import Tensor

from errata.model.storage import device_of
from errata.model.tokens import pad_right

# Ordinary beginnings of documents, of several kinds.
_TEXTS: Final = (
    "The city was founded in the",
    "In this article, we will look at",
    "It was one of the first",
    "He was born in",
)
_KNOWS: Final = 0.75  # share of the surprise of a model that knows nothing, below which one has read such texts
_LEAST: Final = 0.1  # nats a token by which a separator must make the texts likelier


@torch.no_grad()
def find_separator(model: Any, tokenizer: Any) -> int | None:
    """Return the token that documents open with for a model; None where its tokenizer opens texts itself, or none helps.

    Candidates are the tokenizer's named special tokens. Taken is the one after which ordinary beginnings of documents are
    likeliest, if the rest of these is likelier after it than with nothing before.
    """
    if device_of(model.get_input_embeddings()).type == "meta":
        return None
    special = [*tokenizer.all_special_ids, tokenizer.eos_token_id]
    special = [i for i in dict.fromkeys(special) if i is not None and i < model.get_input_embeddings().weight.shape[0]]
    plain = [list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in _TEXTS]
    opened = list(tokenizer(_TEXTS[0], verbose=False)["input_ids"])
    if not special or opened[:1] != plain[0][:1] or min(map(len, plain)) < 2:
        return None
    rows = [ids for token in (None, *special) for ids in ([*([] if token is None else [token]), *ids] for ids in plain)]
    found = _logps(model, rows)
    bare, *opened_by = (found[i : i + len(plain)] for i in range(0, len(found), len(plain)))
    scores = dict(zip(special, opened_by, strict=True))
    best = max(special, key=lambda token: _mean(scores[token], start=0))
    after, without = _mean(scores[best], start=1), _mean(bare, start=0)
    reads = after > -_KNOWS * log(model.get_input_embeddings().weight.shape[0])
    return best if reads and after > without + _LEAST else None


def _logps(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the log-probability of each token of each row but the first, which nothing predicts; in one pass."""
    device = device_of(model.get_input_embeddings())
    ids = pad_right(rows, 0).to(device)
    logits = model(input_ids=ids, attention_mask=pad_right([[1] * len(row) for row in rows], 0).to(device)).logits
    found: Tensor = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].cpu()
    return [line[: len(row) - 1] for line, row in zip(found, rows, strict=True)]


def _mean(found: Sequence[Tensor], start: int) -> float:
    return float(torch.cat([row[start:] for row in found]).double().mean())
