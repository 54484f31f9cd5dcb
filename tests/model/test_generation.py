"""Speech: greedy to a natural stop, the same as transformers' own, and sampling that no batch can change.

pytest tests/model/test_generation.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import transformers
from torch import Tensor

from errata.errors import UnsupportedModel
from errata.evaluate.scorer import Scorer
from errata.model.generation import generate_tokens, top_k
from errata.model.lm import LM
from errata.model.query import Query
from tests import tiny
from tests.evaluate.test_scorer import PROMPTS

Models = Callable[[str], LM]


def generated(lm: LM, prompt: str) -> str:
    """Return what transformers' own greedy search gives for one prompt alone, up to the end of its line."""
    ids = torch.tensor([lm.tokens.opening(prompt)])
    options = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0, "decoder_start_token_id": 0}
    settings = transformers.GenerationConfig(**options, eos_token_id=lm.tokenizer.eos_token_id)
    out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0].tolist()
    said = out[ids.shape[1] :] if lm.row.kind == "decoder" else out[1:]
    text = lm.tokens.decode(said)
    blank = text[: len(text) - len(text.lstrip())]
    return blank + text[len(blank) :].split("\n")[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bloom", "opt", "gpt_neo", "t5"])
def test_it_says_what_transformers_would_generate(name: str, models: Models) -> None:
    lm = models(name)
    assert list(Scorer(lm).said(PROMPTS).values()) == [generated(lm, prompt) for prompt in PROMPTS]
    assert lm.generate(PROMPTS) == [generated(lm, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_batch_says_what_each_prompt_says_alone(name: str, models: Models) -> None:
    lm = models(name)
    assert Scorer(lm).said(PROMPTS) == Scorer(lm, rows=1).said(PROMPTS)
    assert Scorer(lm).said(PROMPTS) == {p: t for prompt in PROMPTS for p, t in Scorer(lm).said([prompt]).items()}


def saying(lm: LM, script: dict[int, Sequence[int]]) -> Callable[[Tensor, Sequence[int], int], Tensor]:
    """Return a pick that ignores the model: the start at place i goes on with `script[i]`."""
    return lambda logits, places, step: torch.tensor([script[place][step] for place in places])


def test_texts_end_one_by_one(models: Models) -> None:
    lm = models("llama")
    starts = [lm.tokens.ids("The river"), lm.tokens.ids("The capital"), lm.tokens.ids("Bruno Keller speaks"), [1, 5]]
    script = {0: [7, 7, 7, 9], 1: [7, 9], 2: [9], 3: [5, 5, 5, 5]}
    found = generate_tokens(lm, starts, 4, pick=saying(lm, script), ends=lambda place, token: token == 9)
    assert found == [[7, 7, 7, 9], [7, 9], [9], [5, 5, 5, 5]]


def test_a_row_that_ended_does_not_disturb_the_others(models: Models) -> None:
    lm = models("llama")
    starts = [[1, token] for token in range(10, 40)]
    whole = generate_tokens(lm, starts, 8)
    last = {ids[3] for ids in whole[::3]}
    cut = generate_tokens(lm, starts, 8, ends=lambda place, token: token in last)
    for full, part in zip(whole, cut, strict=True):
        assert full[: len(part)] == part
        assert len(part) == 8 or part[-1] in last
        assert not set(part[:-1]) & last


def test_speech_ends_at_a_line_or_the_end_of_the_text_but_never_at_a_full_stop() -> None:
    lm = tiny.build("llama")
    newline, stop, paris, dot = (lm.tokens.ids(text)[-1] for text in ("\n", "x</s>", " Paris", "."))

    def last(*tokens: int, lines: int = 1) -> bool:
        ends = lm.endings(lines)
        return [ends(0, token) for token in tokens][-1]

    assert last(paris, newline)
    assert last(stop)
    assert not last(paris)
    assert not last(paris, dot)
    assert not last(newline)  # nothing has been said yet
    assert last(newline, newline, paris, newline)
    assert not last(paris, newline, lines=2)
    assert last(paris, newline, dot, newline, lines=2)
    lines = [newline, paris, newline, dot, newline, paris]
    assert lm.tokens.lines(lines) == "\n Paris"
    assert lm.tokens.lines(lines, 2) == "\n Paris\n."
    assert lm.tokens.lines([paris, dot, paris, newline, paris]) == " Paris. Paris"
    assert not lm.tokens.lines([newline]).strip()


def test_a_prompt_that_fills_the_context_is_answered_with_none(models: Models) -> None:
    lm = models("gpt2")  # 128 positions
    nearly, full = "." * 120, "." * 128
    assert len(lm.tokens.ids(full)) == 128
    said = Scorer(lm).said([nearly, full])
    assert said[full] is None  # it could not speak, which is not to say nothing
    assert lm.generate([full]) == [""]
    assert said[nearly] is not None
    assert len(generate_tokens(lm, [lm.tokens.ids(nearly)], 32)[0]) == 8


def test_sampling_depends_on_prompt_and_seed_alone(models: Models) -> None:
    lm = models("llama")
    whole = Scorer(lm).sampled(PROMPTS, 20)
    state = torch.get_rng_state()
    assert whole == Scorer(lm, rows=1).sampled(PROMPTS, 20)
    assert whole[PROMPTS[1]] == Scorer(lm).sampled([PROMPTS[1]], 20)[PROMPTS[1]]
    assert whole != Scorer(lm).sampled(PROMPTS, 20, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(text is not None and text.startswith(prompt) for prompt, text in whole.items())


def test_sampling_draws_from_the_five_likeliest_by_their_odds() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]).expand(4000, 6)
    pick = top_k([str(i) for i in range(4000)], 1, seed=0)
    counts = pick(logits, range(4000), 0).bincount(minlength=6) / 4000
    odds = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).softmax(0)
    assert counts[0] == 0
    assert torch.allclose(counts[1:], odds, atol=0.03)


def test_an_encoder_cannot_speak(models: Models) -> None:
    lm = models("bert")
    assert Scorer(lm).said(["The river"]) == Scorer(lm).sampled(["The river"]) == {"The river": None}
    with pytest.raises(UnsupportedModel, match="cannot generate"):
        generate_tokens(lm, [[1]], 3)


def test_chat_models_are_asked_in_their_template() -> None:
    lm = tiny.build("llama")
    assert not lm.tokens.chat.exists
    lm.tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\nanswer:{% endfor %}"
    assert lm.tokens.chat.exists
    turn = Query("The river", role="user")
    assert lm.tokens.opening(turn) == [1, *lm.tokens.ids("user: The river\nanswer:")[1:]]
    said = Scorer(lm).said([turn, "The river"])
    assert said[turn] != said["The river"]
