"""A batch cut at the lookup tokens gives what the whole batch gives, or says that it cannot.

pytest tests/model/test_suffix.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.model import suffix
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.suffix import Suffix, suffix_of
from errata.model.tokens import Batch
from errata.model.trace import Trace, resume
from tests import tiny

Models = Callable[[str], LM]
CONTEXTS = ("", "Anna.", "The river Seine runs through Paris.")
# A mask of four dimensions says nothing of ALiBi, or of windows shorter than the text; GPT-Neo does not take one.
WHOLE = ("bloom", "gemma2", "gemma3", "gemma3_text", "gpt_neo", "mistral", "t5")


def rows(lm: LM) -> Batch:
    return lm.tokens.batch([Query(f.prompt, f"{f.target} now", f.span).after(c) for f in tiny.FACTS for c in CONTEXTS])


def halved(lm: LM, layer: int) -> tuple[Batch, Tensor, Suffix | None, Tensor]:
    """Return (batch, input of the layer, its tail, the full logits)."""
    batch, cache = rows(lm), lm.cache() if lm.row.kind == "decoder" else None
    with torch.no_grad(), Trace(lm, inputs=[Site(layer, "block")]) as trace:
        logits = lm.answer_logits(batch, cache)
    hidden = trace.inputs[Site(layer, "block")]
    return batch, hidden, suffix_of(lm, batch, hidden, layer, (logits, cache)), logits


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", tiny.EDITABLE)
def test_a_tail_gives_the_full_logits(models: Models, name: str, layer: int) -> None:
    lm = models(name)
    batch, _, tail, logits = halved(lm, layer)
    if name in WHOLE:
        # The last block alone may look no further back than its window, or have none.
        assert tail is None or layer == 2
    else:
        assert tail is not None
    if tail is None:
        return
    for way in (tail, replace(tail, beside=False)):
        run = way.take(torch.arange(len(batch)))
        assert int(run.real.sum()) == int((batch.inputs["attention_mask"].sum(1) - batch.lookup).sum())
        with torch.no_grad(), resume(lm, layer, run.hidden):
            torch.testing.assert_close(lm.answer_logits(run.batch, run.cache(lm)), logits, atol=1e-5, rtol=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "mistral"])
def test_windows_longer_than_the_text_do_not_matter(name: str) -> None:
    assert halved(tiny.build(name, sliding_window=64), 1)[2] is not None


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "opt"])
def test_what_is_added_at_the_lookup_reaches_the_answers_alike(models: Models, name: str) -> None:
    lm = models(name)
    batch, hidden, cut_off, _ = halved(lm, 1)
    assert cut_off is not None
    tail = cut_off.take(torch.arange(len(batch)))
    assert len(tail.row) < len(batch)  # several stand beside one another
    shift = torch.randn(len(batch), lm.width, generator=torch.Generator().manual_seed(0))
    lookup = torch.zeros_like(batch.inputs["input_ids"], dtype=torch.bool)
    lookup[torch.arange(len(batch)), batch.lookup] = True
    whose = torch.arange(len(batch))[:, None].expand(lookup.shape)

    def logits(given: Batch, start: Tensor, where: Tensor, row: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        delta = shift.clone().requires_grad_()
        with resume(lm, 1, start.index_put((where,), delta[row[where]], accumulate=True)):
            found = lm.answer_logits(given, cache)
        return found, torch.autograd.grad(found.square().sum(), delta)[0]

    whole = logits(batch, hidden, lookup, whose, None)
    cut = logits(tail.batch, tail.hidden, tail.marked(lookup), tail.row, tail.cache(lm))
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_some_rows_of_a_tail_give_those_rows(models: Models) -> None:
    lm = models("llama")
    batch, _, tail, logits = halved(lm, 1)
    assert tail is not None
    part = tail.take(torch.tensor([1, 4, 7]))
    with torch.no_grad(), resume(lm, 1, part.hidden):
        found = lm.answer_logits(part.batch, part.cache(lm))
    wanted = [logits[batch.rows == row] for row in (1, 4, 7)]
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=1e-4)
    with torch.no_grad(), resume(lm, 1, part.hidden):  # what is kept is not added to
        torch.testing.assert_close(lm.answer_logits(part.batch, part.cache(lm)), found)


def test_short_rows_stand_beside_one_another_and_long_ones_alone() -> None:
    bins, first = suffix._bins([3, 60, 3, 70, 2], room=64)
    assert (bins, first) == ([1, 1, 1, 0, 1], [60, 0, 63, 0, 66])
