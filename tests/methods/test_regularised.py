"""Plug-ins on the methods that take them, and fine-tuning inside what is free.

pytest tests/methods/test_regularised.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from errata.delta import Dense, LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods import make
from errata.methods.shared.regularised import PRUNE, RECT, SPHERE
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from errata.solve.keys import gather, queries
from errata.solve.regularise import beside, compressed, largest
from tests import tiny
from tests.methods.test_orthogonal import MORE, taken

SITE = Site(1, "down")
SMALL: dict[str, dict[str, Any]] = {
    "rome": {"layer": 1, "tokens": 300, "corpus": "primer", "steps": 4},
    "memit": {"layers": (1,), "tokens": 300, "corpus": "primer", "steps": 4, "weight": 2.0},
    "ft": {"layer": 1, "steps": 4, "tokens": 300, "corpus": "primer"},
    "locft": {"layer": 1, "epochs": 4, "tokens": 300, "corpus": "primer"},
}


def build() -> LM:
    return tiny.build("llama", dtype=torch.float64)


def write(lm: LM, method: str, facts: tuple[Fact, ...], past: tuple[Edit, ...] = (), **options: Any) -> Edit:
    lm.weights.stand([e.deltas for e in past])
    edit = make(method, {**SMALL[method], **options}).solve(lm, facts, past)
    lm.weights.stand([e.deltas for e in (*past, edit)])
    return edit


# ------------------------------------------------------------------ plug-ins


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_a_plug_in_is_its_definition_applied_to_the_update(method: str) -> None:
    lm = build()
    past = (write(lm, method, MORE[:1]),)
    found = {r: write(lm, method, MORE[1:2], past, restrain=r) for r in ("none", "rect", "sphere", "prune")}
    plain, before = found["none"].deltas[SITE], past[0].deltas[SITE].dense()
    assert isinstance(plain, LowRank)
    lm.weights.stand([past[0].deltas])
    wanted = {
        "rect": largest(plain.dense(), lm.weights[SITE], RECT),
        "sphere": beside(plain, lm.weights[SITE], *SPHERE).dense(),
        "prune": compressed(before + plain.dense(), lm.weights.base(SITE), PRUNE) - before,
    }
    for name, matrix in wanted.items():
        torch.testing.assert_close(found[name].deltas[SITE].dense(), matrix, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("method", "role"), [("rome", "down"), ("memit", "block")])
def test_an_anchored_value_has_the_norm_of_the_bases(method: str, role: str) -> None:
    lm, place = build(), Site(1, role)
    past = (write(lm, method, MORE[:1]),)
    plain, held = (write(lm, method, MORE[1:2], past, anchor=a, anchor_lead=None) for a in (None, 1.5))
    asked = queries(lm, MORE[1:2], [""], answers=False)
    lm.weights.stand([past[0].deltas])
    now = gather(lm, asked, outputs=[place])[1][place][0]
    lm.weights.stand([])
    base = gather(lm, asked, outputs=[place])[1][place][0]
    free, anchored = (now + edit.carry[f"delta/{place}"][0] for edit in (plain, held))
    assert float(anchored.norm()) == pytest.approx(1.5 * float(base.norm()), rel=1e-6)
    assert float(torch.cosine_similarity(anchored, free, dim=0)) == pytest.approx(1.0, abs=1e-9)


def lead(lm: LM, fact: Fact, context: str, site: Site, delta: torch.Tensor) -> float:
    """By how much the answer's least certain token leads every other, δ added by hand in a whole pass."""
    (query,) = queries(lm, [fact], [context], answers=True)
    batch = lm.tokens.batch([query])

    def add(output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        moved[0, int(batch.lookup[0])] += delta
        return moved

    with torch.no_grad(), Trace(lm, replace={site: add}):
        logp = lm.answer_logits(batch).log_softmax(-1)
    others = logp.scatter(1, batch.labels[:, None], -torch.inf).amax(1)
    return float((logp.gather(1, batch.labels[:, None])[:, 0] - others).min())


@pytest.mark.parametrize(("method", "role"), [("rome", "down"), ("memit", "block")])
def test_an_anchor_is_raised_by_halves_until_the_fact_leads_everywhere(method: str, role: str) -> None:
    lm, site, fact = build(), Site(1, role), MORE[1]
    site = Site(1, "down") if role == "down" else site
    start = gather(lm, queries(lm, [fact], [""], answers=False), outputs=[site])[1][site][0]
    edits = {
        n: write(lm, method, (fact,), anchor=a, anchor_lead=n, steps=8, shrink=0.0)
        for n, a in ((None, None), (1e6, 0.5))
    }
    lm.weights.stand([])
    plain = edits[None].carry[f"delta/{site}"][0]
    assert torch.allclose(plain, edits[1e6].carry[f"delta/{site}"][0], atol=1e-9)  # as it was learned
    contexts, free = edits[None].prefixes, start + plain
    multiples = [m / 2 for m in range(1, 9) if m / 2 * float(start.norm()) < float(free.norm())]
    at = [free / free.norm() * m * start.norm() - start for m in multiples]
    worst = [min(lead(lm, fact, context, site, delta) for context in contexts) for delta in at]
    assert len(worst) > 1
    for wanted in (worst[0] - 1, (worst[0] + max(worst)) / 2):
        enough = next(place for place, found in enumerate(worst) if found >= wanted)
        edit = write(lm, method, (fact,), anchor=0.5, anchor_lead=wanted, steps=8, shrink=0.0)
        assert torch.allclose(edit.carry[f"delta/{site}"][0], at[enough], atol=1e-6)
        lm.weights.stand([])


def test_memit_has_the_bases_norm_unless_it_is_set_as_published() -> None:
    lm = build()
    assert (make("memit", {}).resolve(lm).anchor, make("memit", {}).resolve(lm).anchor_lead) == (1.0, 4.0)  # type: ignore[attr-defined]
    lm.published = "gpt-j-6b"
    assert make("memit", {"layers": (1,)}).resolve(lm).anchor is None  # type: ignore[attr-defined]


def test_a_ledger_takes_no_update_that_is_no_solution() -> None:
    with pytest.raises(BadConfig, match="restrain = rect"):
        make("ledger", {"restrain": "rect"})
    assert make("ledger", {"anchor": 1.0})


# ------------------------------------------------------------------ fine-tuning


@pytest.mark.parametrize("method", ["ft", "locft"])
def test_no_weight_on_the_penalties_is_plain_fine_tuning_to_the_bit(method: str) -> None:
    lm = build()
    past = (write(lm, method, MORE[:1]),)
    plain, free, held = (
        write(lm, method, MORE[1:3], past, **o)
        for o in ({}, {"constraint": "o-edit", "lambda1": 0.0, "lambda2": 0.0}, {"constraint": "o-edit"})
    )
    assert torch.equal(plain.deltas[SITE].dense(), free.deltas[SITE].dense())
    assert not torch.equal(plain.deltas[SITE].dense(), held.deltas[SITE].dense())


@pytest.mark.parametrize("projection", ["inside", "project"])
@pytest.mark.parametrize("method", ["ft", "locft"])
def test_a_tuned_change_keeps_to_what_is_free(method: str, projection: str) -> None:
    lm = build()
    past = write(lm, "rome", MORE[:1])
    options = {"constraint": "o-edit+", "projection": projection, "directions": 4, "energy": 1.0}
    edit = write(lm, method, MORE[1:3], (past,), **options)
    q, change = taken(lm, SITE, [past], 4), edit.deltas[SITE].dense()
    assert isinstance(edit.deltas[SITE], Dense)
    assert float((q.T @ change).norm()) < 1e-9 * float(change.norm())
    assert (edit.report["kept"][str(SITE)] > 0.999) == (projection == "inside")


def test_breadth_first_takes_one_step_a_mini_batch_and_teaches_the_end() -> None:
    lm = build()
    whole, parts = (write(lm, "locft", MORE, size=size, epochs=3) for size in (100, 2))
    assert whole.report["steps"] == parts.report["steps"] == [3]
    assert not torch.equal(whole.deltas[SITE].dense(), parts.deltas[SITE].dense())
    lm.weights.stand([])
    asked = [Query(f.prompt, f"{f.target}</s>", f.span) for f in MORE]
    batch = lm.tokens.batch(asked)
    assert [int(batch.labels[batch.rows == i][-1]) for i in range(len(MORE))] == [lm.tokenizer.eos_token_id] * len(MORE)
    before, after = _nll(lm, asked), 0.0
    longer = write(lm, "locft", MORE, epochs=12)
    after = _nll(lm, asked)
    assert after < before
    assert longer.report["loss"][0] == pytest.approx(after, rel=1e-6)


def _nll(lm: LM, asked: list[Query]) -> float:
    return sum(float(-logp.mean()) for logp in lm.logprobs(asked)) / len(asked)
