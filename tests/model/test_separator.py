"""Document separators: found by what a model predicts, and put before every plain text.

pytest tests/model/test_separator.py
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errata.delta import Site
from errata.errors import BadConfig
from errata.model.lm import LM
from errata.model.loading import _opened_by
from errata.model.query import BARE, Query
from errata.model.separator import find_separator
from errata.stats.store import keys
from tests import tiny


class Reads(nn.Module):
    """A model that knows every text to which one token leads, and nothing else.

    Args:
        opens: the token. first: whether it knows a text's first word, too.
    """

    def __init__(self, vocabulary: int, opens: int | None, first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 1)
        self.opens, self.first, self.passes = opens, first, 0

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.passes += 1
        logits = torch.zeros(*input_ids.shape, self.embedding.num_embeddings)
        for row, ids in enumerate(input_ids.tolist()):
            for place, after in enumerate(ids[1:]):
                knows = ids[0] == self.opens and (place or self.first)
                logits[row, place, after] = 5.0 if knows else 0.0
        return SimpleNamespace(logits=logits)


@pytest.fixture
def tokenizer() -> Any:
    found = tiny.tokenizer("gpt2")
    assert found("The", verbose=False)["input_ids"] == found("The", add_special_tokens=False)["input_ids"]
    return found


def test_it_is_what_makes_beginnings_of_documents_likely(tokenizer: Any) -> None:
    token = tokenizer.eos_token_id
    model = Reads(len(tokenizer), token)
    assert find_separator(model, tokenizer) == token
    assert model.passes == 1


def test_of_several_the_one_after_which_texts_begin(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert find_separator(Reads(len(tokenizer), turn), tokenizer) == turn
    assert find_separator(Reads(len(tokenizer) - 1, turn), tokenizer) is None  # the embedding has no such token
    assert find_separator(Reads(len(tokenizer), tokenizer.eos_token_id), tokenizer) == tokenizer.eos_token_id


def test_there_is_none_where_it_does_not_help(tokenizer: Any) -> None:
    assert find_separator(Reads(len(tokenizer), None), tokenizer) is None
    assert tiny.build("gpt2").tokens.separator is None  # random weights


def test_a_tokenizer_that_opens_texts_needs_none() -> None:
    tokenizer = tiny.tokenizer("llama")
    assert tokenizer("The", verbose=False)["input_ids"][0] == tokenizer.bos_token_id
    assert find_separator(Reads(len(tokenizer), tokenizer.eos_token_id), tokenizer) is None


@pytest.fixture
def opened() -> LM:
    lm = tiny.build("gpt2")
    lm.tokens.separator = lm.tokenizer.eos_token_id
    return lm


def test_every_plain_text_opens_with_it(opened: LM) -> None:
    tokens, mark, text = opened.tokens, opened.tokenizer.eos_token_id, "The capital of France is"
    plain = list(opened.tokenizer(text)["input_ids"])
    assert tokens.ids(text) == tokens.opening(text) == [mark, *plain]
    assert tokens.opening(Query(text, role=BARE)) == plain
    assert tokens.ids(f"{opened.tokenizer.eos_token}{text}") == [mark, *plain]  # it has brought one
    batch = tokens.batch([Query(text, "Rome", (15, 21)), Query(text, "Rome", (15, 21), role=BARE)])
    assert batch.inputs["input_ids"][0].tolist()[0] == mark
    assert batch.lookup[0] == batch.lookup[1] + 1  # the subject, one place further on
    answers = [batch.labels[batch.rows == row].tolist() for row in (0, 1)]
    assert answers[0] == answers[1]
    tokens.separator = None
    assert tokens.ids(text) == plain


def test_statistics_of_texts_that_open_with_it_are_others(opened: LM) -> None:
    site = Site(0, "down")
    with_it = keys(opened, [site])[site].name()
    opened.tokens.separator = None
    assert keys(opened, [site])[site].name() != with_it
    assert keys(opened, [site])[site].name() == keys(tiny.build("gpt2"), [site])[site].name()


def test_it_can_be_named_or_left_out(opened: LM) -> None:
    eos = opened.tokenizer.eos_token
    assert _opened_by(opened, "none").tokens.separator is None
    assert _opened_by(opened, eos).tokens.separator == opened.tokenizer.eos_token_id
    with pytest.raises(BadConfig, match="has no special token '<doc>'; it has"):
        _opened_by(opened, "<doc>")
