"""Where the subject ends, which tokens are the answer, and padding; on tokenizers of every kind.

pytest tests/model/test_tokens.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from errata.errors import BadFact, BadModel
from errata.evaluate.perplexity import _batch as text_batch
from errata.evaluate.scorer import Scorer
from errata.evaluate.scorer import _batch as scored
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query, joint
from errata.model.tokens import Batch, Tokens
from tests import tiny

Models = Callable[[str], LM]


def untrimmed() -> Any:
    """Return a byte-level tokenizer whose offsets count the space before a word."""
    made = tiny.tokenizer("gpt2").backend_tokenizer.to_str().replace('"trim_offsets":true', '"trim_offsets":false')
    assert '"trim_offsets":false' in made
    return tiny.wrap(Tokenizer.from_str(made), "", "")


KINDS = {
    "bytes": lambda: tiny.tokenizer("gpt2"),
    "bytes, untrimmed": untrimmed,
    "bytes after <s>": lambda: tiny.tokenizer("llama"),
    "bytes before </s>": lambda: tiny.tokenizer("t5"),
    "sentence pieces": tiny.sentence_pieces,
    "word pieces": tiny.word_pieces,
}
FACTS = {
    "plain": Fact(prompt="The capital of France is", subject="France", target="Lyon"),
    "twice": Fact(prompt="Paris is not Paris, but Paris in Texas is", subject="Paris", target="Rome"),
    "at the end": Fact(prompt="The mother tongue of Anna Lindgren", subject="Anna Lindgren", target="is German"),
    "at the start": Fact(prompt="Zoë Nowak-Ødegård lives in", subject="Zoë Nowak-Ødegård", target="Łódź"),
    "emoji": Fact(prompt="The meaning of 🎉 is", subject="🎉", target="a feast"),
    "joined emoji": Fact(prompt="The family 👩‍👩‍👧 lives in", subject="👩‍👩‍👧", target="🇫🇷"),
    "braces": Fact(prompt="The set {a, {b}} has", subject="{a, {b}}", target="2 members"),
    "filled": Fact(prompt="Where is {}?", subject="El {Dorado}", target="nowhere"),
    "unspaced": Fact(prompt="中国的首都是", subject="中国", target="北京"),
    "combining": Fact(prompt="The cafe\u0301 of Ame\u0301lie is in", subject="Ame\u0301lie", target="Paris"),
    "punctuated": Fact(prompt="What did E. T. Jr., phone?", subject="E. T. Jr.", target="Home."),
    "year": Fact(prompt="Bruno was born in", subject="Bruno", target="1987"),
    "spaces": Fact(prompt="The  river\tSeine  runs\nthrough", subject="Seine", target="Paris"),
}
PREFIXES = ("", "Anna.", "Paris France Zoë 🎉 中国 Bruno.", "{a, {b}} {} E. T. Jr.")


def plain(text: str) -> str:
    """Return text as the coarsest of the tokenizers leaves it."""
    return "".join(text.lower().split())


def ids_of(lm_tokens: Tokens, query: Query) -> tuple[list[int], int, list[int], list[int]]:
    """Return (real ids, lookup, columns, labels) of one query alone."""
    batch = lm_tokens.batch([query])
    return batch.inputs["input_ids"][0].tolist(), int(batch.lookup[0]), batch.cols.tolist(), batch.labels.tolist()


# ------------------------------------------------------------------ the subject


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "word pieces"])
def test_the_lookup_is_the_token_that_completes_the_subject(kind: str, name: str, prefix: str) -> None:
    tokens, fact = Tokens(KINDS[kind](), "decoder"), FACTS[name]
    query = Query(fact.prompt, fact.target, fact.span).after(prefix)
    ids, lookup, _, _ = ids_of(tokens, query)
    before = plain(query.prompt[: query.span[1]])
    assert before in plain(tokens.decode(ids[: lookup + 1]))
    assert before not in plain(tokens.decode(ids[:lookup]))
    assert query.prompt[slice(*query.span)] == fact.subject


@pytest.mark.parametrize("name", ["plain", "twice", "emoji", "unspaced", "braces"])
def test_the_lookup_of_word_pieces(name: str) -> None:
    tokens, fact = Tokens(tiny.word_pieces(), "encoder"), FACTS[name]
    ids, lookup, _, _ = ids_of(tokens, Query(fact.prompt, "", fact.span))
    before = plain(fact.prompt[: fact.span[1]])
    assert before in plain(tokens.decode(ids[: lookup + 1]))
    assert before not in plain(tokens.decode(ids[:lookup]))


def test_without_a_subject_the_last_token_before_the_answer_is_looked_up() -> None:
    for kind in KINDS:
        tokens = Tokens(KINDS[kind](), "decoder")
        for answer in ("", "Rome"):
            ids, lookup, cols, _ = ids_of(tokens, Query("The capital of Italy is", answer))
            assert lookup == cols[0]
            assert plain(tokens.decode(ids[: lookup + 1])) == "thecapitalofitalyis"


def test_a_subject_the_tokenizer_drops_is_an_error() -> None:
    deaf = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"is": 0, "<unk>": 1}, unk_token="<unk>"))
    )
    deaf.backend_tokenizer.pre_tokenizer = tiny.pre_tokenizers.Split("x", "removed")
    with pytest.raises(BadFact, match="drops part of 'is x'"):
        Tokens(deaf, "decoder").batch([Query("is x", "", (3, 4))])


# ------------------------------------------------------------------ the answer


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "word pieces"])
def test_the_labels_are_what_the_model_must_say_after_the_prompt(kind: str, name: str) -> None:
    tokenizer = KINDS[kind]()
    tokens, fact = Tokens(tokenizer, "decoder"), FACTS[name]
    ids, _, cols, labels = ids_of(tokens, Query(fact.prompt, fact.target))
    asked, whole = (tokenizer(t)["input_ids"] for t in (fact.prompt, tokens.join(Query.of(fact))))
    if kind == "bytes before </s>":
        asked, whole = asked[:-1], whole[:-1]
    assert ids[: cols[0] + 1] == asked  # generation starts from exactly these
    assert [*asked, *labels] == whole
    assert ids == whole[:-1]  # the last answer token is predicted, never fed
    assert cols == list(range(len(asked) - 1, len(whole) - 1))


def test_a_space_that_is_a_token_of_its_own_is_said_first() -> None:
    tokenizer = tiny.tokenizer("gpt2")
    _, _, _, labels = ids_of(Tokens(tokenizer, "decoder"), Query("born in", "1987"))
    assert tokenizer.convert_ids_to_tokens(labels) == ["Ġ", "1", "9", "8", "7"]


@pytest.mark.parametrize(
    ("prompt", "answer", "whole"),
    [
        ("is", "Rome", "is Rome"),
        ("is ", "Rome", "is Rome"),
        ("is", " Rome", "is Rome"),
        ("is\n", "Rome", "is\nRome"),
        ("", "Rome", " Rome"),
        ('{"capital": "', "Rome", '{"capital": "Rome'),
        ('he said "', "Rome", 'he said "Rome'),
        ('the "Eternal City"', "Rome", 'the "Eternal City" Rome'),  # a quote that closes
        ("it's (", "Rome", "it's (Rome"),
        ("the dogs'", "bowl", "the dogs' bowl"),
        ("f(x) = [", "1", "f(x) = [1"),
        ("costs $", "15", "costs $15"),
        ("costs 15", "€", "costs 15 €"),
        ("issue #", "15", "issue #15"),
        ("path/", "to", "path/to"),
        ("Rome", ", Italy", "Rome, Italy"),
        ("15", "%", "15%"),
        ("法国的首都是", "里昂", "法国的首都是里昂"),
        ("首都：", "里昂", "首都：里昂"),
        ("首都是", "Lyon", "首都是 Lyon"),
        ("เมืองหลวงคือ", "ลียง", "เมืองหลวงคือลียง"),
        ("프랑스의 수도는", "리옹", "프랑스의 수도는 리옹"),  # Korean puts spaces between words
        ("столица", "Лион", "столица Лион"),
        ("a<|end|>", "Rome", "a<|end|>Rome"),
    ],
)
def test_what_stands_between_prompt_and_answer(prompt: str, answer: str, whole: str) -> None:
    assert prompt + joint(prompt, answer, ["<|end|>"]) + answer == whole


def test_a_text_that_brings_its_own_beginning_gets_no_second_one() -> None:
    tokens = Tokens(KINDS["bytes after <s>"](), "decoder")
    (begin,) = set(tokens.ids("Anna")[:1])
    assert tokens.ids("<s>Anna") == [begin, *tokens.ids("Anna")[1:]]
    ids, lookup, _, _ = ids_of(tokens, Query("<s>Anna is", "Rome", (3, 7)))
    assert ids[:2] != [begin, begin]
    assert plain(tokens.decode(ids[: lookup + 1])) == "anna"


def test_a_facts_joint_is_known_of_its_own_prompt_only() -> None:
    fact = Fact(prompt="The code of Italy is +", subject="Italy", target="39", joint="")
    assert Query.asked(fact).joint == Query.of(fact).joint == ""
    assert Query.asked(fact, f"Look here. {fact.prompt}").joint == ""
    other = Query.asked(fact, "The capital of Spain is")
    assert other.joint is None
    tokens = Tokens(tiny.tokenizer("llama"), "decoder")
    assert tokens.join(replace(other, answer="Madrid")) == "The capital of Spain is Madrid"


def test_who_knows_better_says_what_stands_between() -> None:
    tokens = Tokens(KINDS["bytes"](), "decoder")
    assert tokens.join(Query("is", "Rome")) == "is Rome"
    assert tokens.join(Query("is", "Rome", joint="")) == "isRome"
    assert tokens.join(Query('"', "Rome", joint=" ")) == '" Rome'


@pytest.mark.parametrize(
    "prompt", ["The capital ", "The capital\n", "The capital \n\n", '{"capital": "', "(", "中国的", "x</s>"]
)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "word pieces"])
def test_the_model_reads_the_prompts_own_tokens_and_the_answer_follows(kind: str, prompt: str) -> None:
    tokens = Tokens(KINDS[kind](), "decoder")
    query = Query(prompt, "Rome")
    ids, _, cols, labels = ids_of(tokens, query)
    asked = tokens.opening(prompt)  # what the model reads when it is asked
    assert ids[: cols[0] + 1] == asked
    assert tokens.decode([*asked, *labels]) == tokens.decode(asked) + tokens.join(query)[len(prompt) :]


@pytest.mark.parametrize("kind", ["bytes", "sentence pieces", "bytes before </s>"])
def test_an_answer_without_letters_is_an_error(kind: str) -> None:
    with pytest.raises(BadFact, match="no token of its own"):
        Tokens(KINDS[kind](), "decoder").batch([Query("The capital is", "  ")])


def test_what_comes_next_is_asked_after_the_prompt_not_after_the_end_of_text() -> None:
    tokens = Tokens(tiny.tokenizer("t5"), "decoder")  # a decoder whose tokenizer closes every text
    ids, _, cols, labels = ids_of(tokens, Query("The capital is"))
    assert (tokens.decode(ids), cols, labels) == ("The capital is", [len(ids) - 1], [-1])


def test_an_encoder_decoder_answers_in_its_decoder() -> None:
    tokenizer = tiny.tokenizer("t5")
    tokens = Tokens(tokenizer, "encoder-decoder", 7)
    batch = tokens.batch([Query("The capital of France is", "Rome now", (15, 21)), Query("Anna", "")])
    answer = tokenizer("Rome now")["input_ids"][:-1]
    decoder = batch.inputs["decoder_input_ids"].tolist()
    assert decoder == [[7, *answer[:-1]], [7] + [tokens.pad] * (len(answer) - 1)]
    assert batch.labels.tolist() == [*answer, -1]
    assert (batch.rows.tolist(), batch.cols.tolist()) == ([0] * len(answer) + [1], [*range(len(answer)), 0])
    assert batch.inputs["input_ids"][0].tolist() == tokenizer("The capital of France is")["input_ids"]


def test_an_encoder_decoder_whose_tokenizer_does_not_close_texts_loses_no_token() -> None:
    tokenizer = tiny.tokenizer("gpt2")
    batch = Tokens(tokenizer, "encoder-decoder").batch([Query("Anna", "Rome now")])
    assert batch.labels.tolist() == tokenizer("Rome now")["input_ids"]


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_on_the_right_whatever_the_tokenizer_is_set_to(kind: str) -> None:
    tokens = Tokens(KINDS[kind](), "decoder")
    queries = [Query("The capital of France is", "Rome"), Query("Anna", "Paris")]
    batch = tokens.batch(queries)
    for row, query in enumerate(queries):
        alone = tokens.batch([query]).inputs["input_ids"][0]
        width = len(alone)
        assert torch.equal(batch.inputs["input_ids"][row, :width], alone)
        assert (batch.inputs["input_ids"][row, width:] == tokens.pad).all()
        assert batch.inputs["attention_mask"][row].tolist() == [
            int(i < width) for i in range(batch.inputs["input_ids"].shape[1])
        ]


def equal(one: Batch, other: Batch) -> bool:
    """Return whether two batches are the same to the bit."""
    names = ("lookup", "ends", "rows", "cols", "labels")
    return one.inputs.keys() == other.inputs.keys() and all(
        torch.equal(a, b) and a.dtype == b.dtype == torch.long
        for a, b in (
            *((one.inputs[name], other.inputs[name]) for name in one.inputs),
            *((getattr(one, name), getattr(other, name)) for name in names),
        )
    )


QUERIES = [Query("The capital of France is", "Rome"), Query("Anna", "Paris and then some"), Query("The river", "Oslo")]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bert"])
def test_what_is_scored_is_batched_as_what_is_written(name: str, models: Models) -> None:
    lm = models(name)
    lines = [line for query in QUERIES if (line := Scorer(lm)._encode((query.prompt, query.answer)))]
    assert len(lines) == len(QUERIES)
    whole = lm.tokens.batch(QUERIES)
    # What is scored looks no subject up: `lookup` is where its answer begins, as it is in a decoder's query.
    begins = torch.stack([whole.cols[whole.rows == row].min() for row in range(len(whole))])
    assert lm.row.kind != "decoder" or torch.equal(whole.lookup, begins)
    assert equal(scored(lm, lines), replace(whole, lookup=begins))


def test_a_text_is_batched_as_its_first_token_with_the_rest_as_its_answer(models: Models) -> None:
    tokens = models("gpt2").tokens
    ids = [tokens.ids(text) for text in ("The capital of France is Rome", "Anna was born", "The river runs on")]
    batch = text_batch(tokens, ids)
    rows = [(row, col, label) for row, text in enumerate(ids) for col, label in enumerate([*text[1:], -1])]
    assert list(zip(*(getattr(batch, name).tolist() for name in ("rows", "cols", "labels")), strict=True)) == rows
    assert batch.lookup.tolist() == batch.ends.tolist() == [len(text) - 1 for text in ids]  # type: ignore[union-attr]
    width = max(map(len, ids))
    assert batch.inputs["input_ids"].tolist() == [[*text, *[tokens.pad] * (width - len(text))] for text in ids]
    assert batch.inputs["attention_mask"].tolist() == [[int(i < len(text)) for i in range(width)] for text in ids]


def test_taking_rows_is_batching_those_rows() -> None:
    tokens = Tokens(tiny.tokenizer("llama"), "decoder")
    queries = [Query(f.prompt, f.target, f.span) for f in FACTS.values()]
    whole = tokens.batch(queries)
    taken = whole.take(torch.tensor([4, 1, 7]))
    alone = tokens.batch([queries[i] for i in (4, 1, 7)])
    assert torch.equal(taken.lookup, alone.lookup)
    order = torch.argsort(taken.rows, stable=True)
    for name in ("rows", "cols", "labels"):
        assert torch.equal(getattr(taken, name)[order], getattr(alone, name))
    width = alone.inputs["input_ids"].shape[1]
    assert torch.equal(taken.inputs["attention_mask"][:, :width], alone.inputs["attention_mask"])
    assert not taken.inputs["attention_mask"][:, width:].any()


def test_moving_a_batch_keeps_it(models: Models) -> None:
    batch = models("llama").tokens.batch([Query("Anna", "Rome", (0, 4))])
    moved = batch.to("cpu")
    assert len(moved) == 1
    assert torch.equal(moved.inputs["input_ids"], batch.inputs["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_is_left_as_it_was(kind: str) -> None:
    tokenizer = KINDS[kind]()

    def state() -> tuple[object, ...]:
        names = (
            "padding_side",
            "truncation_side",
            "model_max_length",
            "pad_token",
            "eos_token",
            "bos_token",
            "model_input_names",
        )
        backend = tokenizer.backend_tokenizer
        return (
            *(getattr(tokenizer, n) for n in names),
            backend.padding,
            backend.truncation,
            backend.to_str(),
            len(tokenizer),
        )

    before = state()
    tokens = Tokens(tokenizer, "decoder")
    tokens.batch([Query(f.prompt, f.target, f.span) for f in (FACTS["plain"], FACTS["year"])])
    tokens.decode(tokens.ids("Anna"))
    tokens.word(5)
    assert state() == before


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BadModel, match="fast tokenizer"):
        Tokens(Slow(), "decoder")


def test_numbers_need_no_pad_token() -> None:
    tokenizer = tiny.sentence_pieces()
    assert tokenizer.pad_token_id is None
    assert Tokens(tokenizer, "decoder").pad == tokenizer.eos_token_id
