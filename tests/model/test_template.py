"""Turns of a conversation as the text a model reads: templates as they are about, and what stands where in them.

pytest tests/model/test_template.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from errata.errors import BadFact, UnsupportedModel
from errata.fact import Fact, Message
from errata.model.query import RENDERED, Query
from errata.model.tokens import Tokens
from tests import tiny

_EACH: Final = "{% for m in messages %}"
_OVER: Final = "{% endfor %}"
_REPLIES: Final = "{% if add_generation_prompt %}"
_NO_SYSTEM: Final = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
_LLAMA: Final = (
    "{{ bos_token }}" + _EACH + "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %}%REPLY%{% else %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n{% endif %}" + _OVER
)  # fmt: skip
# By kind, in words of our own: what ends where the model's turn begins, what takes spaces off, what refuses or prints what.
TEMPLATES: Final = {
    "a newline at the end": _EACH + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n" + _OVER
    + _REPLIES + "<|start|>assistant\n{% endif %}",
    "a newline at the end, after <s>": "{{ bos_token }}" + _EACH + "{{ m.role }}:\n{{ m.content }}\n" + _OVER
    + _REPLIES + "assistant:\n{% endif %}",
    "no space before the reply": _LLAMA.replace("%REPLY%", "{{ m.content }}</s>"),
    "a space before the reply": _LLAMA.replace("%REPLY%", " {{ m.content }} </s>"),
    "roles of its own": "{{ bos_token }}" + _NO_SYSTEM + _EACH + "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}</turn>\n" + _OVER + _REPLIES + "<turn>model\n{% endif %}",
    "the day": "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n" + _EACH + "{{ m.role }}: {{ m.content }}\n" + _OVER
    + _REPLIES + "assistant:{% endif %}",
    "thinking aloud": _EACH + "<{{ m.role }}>"
    "{% if m.role == 'assistant' and loop.last %}<think></think>\n{% endif %}{{ m.content }}</{{ m.role }}>\n" + _OVER
    + _REPLIES + "<assistant>{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}"
    "{% endif %}",
    "a system message by default": _EACH + "{% if loop.first and m.role != 'system' %}[system] Help the user.\n{% endif %}"
    "[{{ m.role }}] {{ m.content.strip() }}\n" + _OVER + _REPLIES + "[assistant]{% endif %}",
    "bare": _EACH + "{{ m.content }}\n" + _OVER,
}  # fmt: skip
SPACED: Final = ("a space before the reply", "the day", "a system message by default")
TOKENIZERS: Final = {
    "bytes": lambda: tiny.tokenizer("gpt2"),
    "bytes after <s>": lambda: tiny.tokenizer("llama"),
    "sentence pieces": tiny.sentence_pieces,
}


def tokens_of(template: str, kind: str = "bytes after <s>") -> tuple[Tokens, Any]:
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return Tokens(tokenizer, "decoder"), tokenizer


def turns(*said: Message) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in said]


# What a tokenizer would have of the conversation, were the reply there: with the settings that errata asks a template for.
_SET: Final = {"enable_thinking": False}


@pytest.fixture(autouse=True, scope="module")
def _the_day() -> Iterator[None]:
    """Let transformers' own rendering be of the day that errata writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Day)
        yield


class Day(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2024, 7, 26)


MADE: Final = {(t, k): tokens_of(t, k) for t in TEMPLATES for k in TOKENIZERS}
WORDS: Final = st.text(st.sampled_from("abLyonéß里昂🎉مลี 3.,?!'\"-\n{}[]"), min_size=1, max_size=20).filter(str.strip)


# ------------------------------------------------------------------ the law


@given(
    template=st.sampled_from(sorted(TEMPLATES)), kind=st.sampled_from(sorted(TOKENIZERS)), prompt=WORDS, target=WORDS,
    before=st.lists(st.tuples(WORDS, WORDS), max_size=2),
)  # fmt: skip
def test_prompt_and_answer_are_what_the_conversation_begins_with(
    template: str, kind: str, prompt: str, target: str, before: list[tuple[str, str]]
) -> None:
    tokens, tokenizer = MADE[template, kind]
    target = target.strip()
    earlier = tuple(m for q, a in before for m in (("user", q), ("assistant", a)))
    said = turns(*earlier, ("user", prompt))
    query = Query(prompt, target, role="user", earlier=earlier)
    asked = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **_SET)
    whole = tokenizer.apply_chat_template([*said, *turns(("assistant", target))], tokenize=False, **_SET)
    assert whole.startswith(tokens.join(query))  # text
    assert tokens.join(query).startswith(asked)
    batch = tokens.batch([query])
    ids, cols, labels = batch.inputs["input_ids"][0].tolist(), batch.cols.tolist(), batch.labels.tolist()
    begins = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert (
        ids[: cols[0] + 1] == begins == tokens.opening(replace(query, answer=""))
    )  # what is asked is what was learned
    assert ids[cols[0] + 1 :] == labels[:-1]
    assert tokens.decode([*begins, *labels]) == tokens.decode(begins) + tokens.join(query)[len(asked) :]
    full = tokenizer(tokens.join(query), add_special_tokens=False)["input_ids"]
    assume(full[: len(begins)] == begins)  # unless one token would hold the end of the one and of the other
    assert [*begins, *labels] == full


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_transformers_own_tokens_begin_with_those_that_are_learned(template: str, kind: str) -> None:
    tokens, tokenizer = MADE[template, kind]
    query = Query("What is the capital of France?", "Lyon, it is said", role="user")
    batch = tokens.batch([query])
    said = turns(("user", query.prompt), ("assistant", query.answer))
    own = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False, **_SET)
    learned = [*batch.inputs["input_ids"][0].tolist(), batch.labels.tolist()[-1]]
    assert learned == own[: len(learned)]
    assert learned.count(tokenizer.bos_token_id) == TEMPLATES[template].count("bos_token")  # its own, and no other


# ------------------------------------------------------------------ single templates


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_space_stands_before_the_reply_where_the_template_writes_one(template: str) -> None:
    tokens, _ = tokens_of(template)
    query = Query("Which city?", "Lyon", role="user")
    between = tokens.join(query)[len(tokens.chat.rendered(query).prompt) : -len("Lyon")]
    assert between == (" " if template in SPACED else "")


def test_the_text_ends_in_the_newline_of_the_template() -> None:
    rendered = tokens_of("a newline at the end")[0].chat.rendered(Query("Which city?", role="user"))
    assert rendered.prompt == "<|start|>user\nWhich city?<|end|>\n<|start|>assistant\n"
    assert rendered.role == RENDERED


def test_a_template_without_bos_gets_none_from_the_tokenizer() -> None:
    tokens, tokenizer = tokens_of("a newline at the end")
    assert tokenizer.bos_token_id in tokens.opening("Which city?")
    assert tokenizer.bos_token_id not in tokens.opening(Query("Which city?", role="user"))


@pytest.mark.parametrize(
    ("format", "written"),
    [
        ("%d %B %Y", "26 July 2024"),
        ("%d %b %Y", "26 Jul 2024"),
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %-m/%y", "Friday, 07/24"),
    ],
)
@pytest.mark.parametrize("before", ["", "\n", "\n\n  ", "  ", "{# said #}\n", "{% set x = 1 %}\n\n"])
def test_the_day_is_always_the_same_and_nothing_else_changes(format: str, written: str, before: str) -> None:
    template = (
        before + "{% if strftime_now is defined %}Today: {{ strftime_now('%F') }}.{% endif %}\n" + TEMPLATES["bare"]
    )
    tokens, tokenizer = tokens_of(template.replace("%F", format))
    rendered = tokens.chat.rendered(Query("x", role="user")).prompt
    assert f"Today: {written}." in rendered
    tokenizer.chat_template = template.replace("strftime_now('%F')", repr(written))
    assert rendered == tokens.chat.rendered(Query("x", role="user")).prompt


def test_a_model_that_could_think_is_asked_for_its_answer() -> None:
    rendered = tokens_of("thinking aloud")[0].chat.rendered(Query("x", role="user"))
    assert rendered.prompt.endswith("<assistant><think></think>\n")


def test_a_role_that_is_refused_is_a_sentence() -> None:
    tokens, _ = tokens_of("roles of its own")
    query = Query("Which city?", "Lyon", role="user", earlier=(("system", "Be brief."),))
    with pytest.raises(BadFact, match=r"refuses this conversation \(System role not supported\): change its turns"):
        tokens.batch([query])
    assert "Be brief." in tokens_of("bare")[0].join(query)


@pytest.mark.parametrize("change", ["upper", "reverse | join", "title"])
def test_a_template_that_writes_other_words_is_refused(change: str) -> None:
    tokens, _ = tokens_of(_EACH + "{{ m.role }}: {{ m.content | " + change + " }}\n" + _OVER)
    with pytest.raises(BadFact, match="does not write 'which City' as it stands"):
        tokens.batch([Query("which City", "Lyon", (6, 10), role="user")])


def test_without_a_template_there_is_no_turn() -> None:
    tokens = Tokens(tiny.tokenizer("gpt2"), "decoder")
    assert (tokens.chat.exists, tokens.chat.invites("Why?")) == (False, False)
    with pytest.raises(UnsupportedModel, match="no chat template"):
        tokens.opening(Query("Why?", role="user"))
    tokenizer = tiny.tokenizer("t5")
    tokenizer.chat_template = TEMPLATES["bare"]
    assert not Tokens(tokenizer, "encoder-decoder").chat.exists  # which has turns of its own, and no conversation


def test_of_several_templates_it_is_the_usual_one() -> None:
    tokens, tokenizer = tokens_of("bare")
    tokenizer.chat_template = {"default": TEMPLATES["the day"], "tool_use": TEMPLATES["bare"]}
    assert "26 July 2024" in tokens.join(Query("Which city?", "Lyon", role="user"))


@pytest.mark.parametrize(
    ("prompt", "invites"),
    [
        ("Why?", True),
        ("为什么？", True),
        ("لماذا؟", True),
        ("Why? ", True),
        ("The capital is", False),
        ("Why? It is", False),
    ],
)
def test_a_question_invites_a_turn(prompt: str, invites: bool) -> None:
    assert tokens_of("bare")[0].chat.invites(prompt) == invites


# ------------------------------------------------------------------ where the subject stands

ABOUT: Final = [
    ("What is the capital of France?", "France"),
    ("  Where is the Seine ?  ", "Seine"),  # spaces that some templates take off
    ("Zoë Nowak-Ødegård lives where?", "Zoë Nowak-Ødegård"),
    ("What does 🎉 mean?", "🎉"),
    ("Who are 👩‍👩‍👧 to me?", "👩‍👩‍👧"),
    ("Is Paris in France the Paris of Texas?", "Paris"),  # twice: the last one counts
    ("中国的首都是哪里？", "中国"),
    ("user", "user"),
    ("Is the assistant a model?", "assistant"),
    ("Where does Ame\u0301lie live?\nAnd since when?", "Ame\u0301lie"),
    ("INST", "INST"),
    ("Which system has Earth?", "Earth"),
    ("What are {{ 7 * 7 }} and {% if x %} in Jinja?", "Jinja"),  # nothing of a prompt is run
    ("Where does <s> stand in Llama?", "Llama"),
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("prompt", "subject"), ABOUT)
def test_the_subject_is_where_the_prompt_has_it(prompt: str, subject: str, template: str) -> None:
    tokens, _ = tokens_of(template)
    talked = (("user", f"I like {subject}. {prompt}"), ("assistant", f"{subject} is good. {prompt}"))
    for earlier in ((), talked):
        messages = (*earlier, ("user", prompt)) if earlier else ()
        fact = Fact(prompt=prompt, subject=subject, target="Lyon", chat=True, messages=messages)
        query = Query.of(fact)
        rendered = tokens.chat.rendered(query)
        assert rendered.span is not None
        assert rendered.prompt[slice(*rendered.span)] == subject
        # The prompt with a mark in place of the subject, rendered the same, tells where it is.
        assert fact.span is not None
        begins, ends = fact.span
        marked = replace(query, prompt=f"{prompt[:begins]}Q{prompt[ends:]}", span=None)
        other = tokens.chat.rendered(marked).prompt
        common = next((i for i, (a, b) in enumerate(zip(rendered.prompt, other, strict=False)) if a != b), len(other))
        assert rendered.span[0] == common
        batch = tokens.batch([query])
        ids, lookup = batch.inputs["input_ids"][0].tolist(), int(batch.lookup[0])
        up_to = tokens.decode(
            tokens._tokenizer(rendered.prompt[: rendered.span[1]], add_special_tokens=False)["input_ids"]
        )
        assert tokens.decode(ids[: lookup + 1]).startswith(up_to)
        assert not tokens.decode(ids[:lookup]).startswith(up_to)


def test_what_the_reply_begins_with_moves_a_subject_that_stands_in_it() -> None:
    tokens, _ = tokens_of("a newline at the end")
    prompt, begun = "What is the capital of France?", "The capital of France is"
    place = len(prompt) + begun.index("France")
    rendered = tokens.chat.rendered(Query(prompt, "Lyon", (place, place + 6), role="user", begun=begun))
    assert rendered.span is not None
    assert rendered.prompt.endswith(begun)
    assert rendered.span == (len(rendered.prompt) - 9, len(rendered.prompt) - 3)
    assert rendered.prompt[slice(*rendered.span)] == "France"
    assert tokens.join(Query(prompt, "Lyon", role="user", begun=begun)).endswith("France is Lyon")
