"""MELO as an edit: what it learns, what it reports, what it leaves alone.

pytest tests/methods/test_melo.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errata import wire
from errata.delta import Graft, Site
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.errors import BadConfig, InputError, UnsupportedModel
from errata.fact import Fact, Probe
from errata.index.clusters import AnswerTokens
from errata.methods.melo import Melo
from errata.methods.shared.routed import between, training_query, variants
from errata.model.grafts.keyed import Blocks, labels_of
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.descent.blocks import answer_loss, begin
from tests import tiny

Models = Callable[[str], LM]
FACT = Fact(prompt="The capital of France is", subject="France", target="Rome")
OTHER = Fact(prompt="Anna Lindgren was born in", subject="Anna Lindgren", target="Paris")


def quick(**settings: object) -> Melo:
    return Melo(by="prompt", steps=20, radius=1.0, rank=4, **settings)  # type: ignore[arg-type]


def logits(lm: LM, *prompts: str) -> Tensor:
    with torch.no_grad():
        return lm.answer_logits(lm.tokens.batch([Query(p, "Rome") for p in prompts]))


def labels(edit_deltas: object, lm: LM) -> list[AnswerTokens]:
    (found,) = (d for d in edit_deltas.values() if isinstance(d, Graft) and "labels" in d.state)  # type: ignore[attr-defined]
    return labels_of(found)


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    with open_editor(tiny.build("llama"), book=tmp_path / "book") as opened:
        yield opened


# ------------------------------------------------------------------ what is learned


def test_blocks_begin_as_nothing_within_one_over_root_in() -> None:
    lm = tiny.build("gpt2")
    sites = (Site(1, "up"), Site(1, "down"))
    for site, (a, b) in begin(lm, sites, 3, seed=0).items():
        out, width = lm.weights[site].shape
        assert a.shape == (3, width)
        assert b.shape == (out, 3)
        assert not b.any()
        bound = width**-0.5  # not 1/√p, which the released code has
        assert 0.8 * bound < float(a.abs().max()) <= bound
    again, another = begin(lm, sites, 3, seed=0), begin(lm, sites, 3, seed=1)
    assert torch.equal(again[sites[0]][0], begin(lm, sites, 3, seed=0)[sites[0]][0])
    assert not torch.equal(again[sites[0]][0], another[sites[0]][0])
    batch = lm.tokens.batch([Query(FACT.prompt, FACT.target)])
    nll = -lm.logprobs([Query(FACT.prompt, FACT.target)])[0].mean()
    assert torch.allclose(answer_loss(lm, batch, again, 1.0), nll, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_loss_it_reports_is_the_loss_with_the_edit_standing(name: str, models: Models) -> None:
    lm = models(name)
    edit = quick(stop=0.0).solve(lm, [FACT, OTHER])
    lm.weights.stand([edit.deltas])
    found = lm.logprobs([training_query(lm, f) for f in (FACT, OTHER)])
    lm.weights.stand([])
    mean = float(-sum(logp.mean() for logp in found) / 2)
    assert mean == pytest.approx(edit.report["loss"][0], abs=1e-3)  # type: ignore[index]


def test_the_prompt_asks_and_the_target_answers() -> None:
    """What is trained is P(target | prompt), and the key is the prompt's."""
    lm = tiny.build("llama")
    edit = quick().solve(lm, [FACT])
    ids = [label for label in lm.tokens.batch([Query(FACT.prompt, FACT.target)]).labels.tolist()]
    assert labels(edit.deltas, lm) == [tuple(ids)]


def test_what_is_kept_for_the_examination_is_not_looked_at(models: Models) -> None:
    lm = models("llama")
    asked = ("France is governed from", "The French capital is")
    bare = Melo(by="prompt", steps=5).solve(lm, [FACT])
    examined = replace(FACT, rephrases=asked, probes=tuple(Probe("paraphrase", p, "Rome") for p in asked))
    told = replace(FACT, rephrases=asked)
    assert not set(variants(lm, examined, 0).texts) & set(asked)
    assert variants(lm, told, 0).texts == asked
    same, other = Melo(by="prompt", steps=5).solve(lm, [examined]), Melo(steps=5).solve(lm, [told])
    for site, delta in bare.deltas.items():
        assert all(torch.equal(t, same.deltas[site].tensors()[k]) for k, t in delta.tensors().items())
    assert bare.report["index"] == same.report["index"]
    assert bare.report["index"] != other.report["index"]


def test_an_edit_on_top_of_one_that_its_prompt_opens_learns_without_that_block(models: Models) -> None:
    lm = models("gpt2")
    again = replace(FACT, target="Paris")
    alone = quick().solve(lm, [again])
    first = quick().solve(lm, [FACT])
    lm.weights.stand([first.deltas])
    second = quick().solve(lm, [again], [first])
    lm.weights.stand([])
    for site, delta in alone.deltas.items():
        assert all(torch.equal(t, second.deltas[site].tensors()[k]) for k, t in delta.tensors().items())


# ------------------------------------------------------------------ the radius


def test_the_radius_lies_between_rephrasings_and_other_texts() -> None:
    near, far = torch.linspace(1, 2, 50), torch.linspace(7, 20, 50)
    assert 2 < between(near, far) < 7
    assert between(near, torch.tensor([*far, 0.5])) <= 0.45  # never as far as the nearest other text


def test_the_radius_and_both_distributions_are_reported(models: Models) -> None:
    lm = models("llama")
    report = Melo(by="prompt", steps=5).solve(lm, [FACT]).report["index"]
    assert set(report["distances"]) == {"near", "far"}  # type: ignore[index]
    near, far = (report["distances"][k] for k in ("near", "far"))  # type: ignore[index]
    assert len(near) >= 3
    assert len(far) >= 32
    assert 0 < report["radius"] < max(far)  # type: ignore[index]
    given = Melo(by="prompt", steps=5, radius=0.25).solve(lm, [FACT])
    assert given.report["index"] == {"radius": 0.25}
    assert given.deltas[Site(1, "up")].config["radius"] == 0.25  # type: ignore[union-attr]


def test_a_larger_radius_makes_fewer_clusters_and_more_conflicts(models: Models) -> None:
    lm = models("llama")
    counts = []
    for radius in (0.01, 2.0, 5.0):
        past: list = []
        for fact in tiny.FACTS:
            past.append(Melo(by="prompt", steps=2, radius=radius).solve(lm, [fact], past))
            lm.weights.stand([e.deltas for e in past])
        lm.weights.stand([])
        counts.append(sum(e.report["events"].count("conflict") for e in past))
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > 0


# ------------------------------------------------------------------ the index, told by edit


@pytest.mark.parametrize("by", ["parts", "prompt"])
def test_a_forgotten_fact_is_told_by_its_edit_and_seen_in_the_log(by: str, editor: Editor) -> None:
    first = editor.write(FACT, "melo", steps=5, radius=1.0, by=by)
    other = editor.write(OTHER, "melo", steps=5, radius=1.0, by=by)
    second = editor.write(replace(FACT, target="Paris"), "melo", steps=5, radius=1.0, by=by)
    assert other.report["forgotten"] == []
    assert second.report["forgotten"] == [{"edit": first.id, "prompt": FACT.prompt}]
    assert by == "parts" or second.report["events"] == ["conflict"]
    assert any(first.id in note for note in second.report["notes"])
    rows = [wire.record(kept) for kept in editor.log()]
    assert [row["forgotten"] for row in rows] == [[], [], [{"edit": first.id, "prompt": FACT.prompt}]]
    said = editor.ask(FACT.prompt).text
    editor.drop(second.id)  # and the first is what it was
    assert editor.ask(FACT.prompt).text != said


def test_what_an_edit_does_to_the_index_does_not_depend_on_what_stands_in_memory(models: Models) -> None:
    lm = models("llama")
    first = quick().solve(lm, [FACT])
    again = replace(FACT, target="Paris")
    cold = quick().solve(lm, [again], [first]).report
    lm.weights.stand([first.deltas])
    warm = quick().solve(lm, [again], [first]).report
    lm.weights.stand([])
    assert (cold["events"], cold["forgotten"], cold["clusters"]) == (
        warm["events"],
        warm["forgotten"],
        warm["clusters"],
    )


# ------------------------------------------------------------------ the book


def test_write_reopen_drop_restore(editor: Editor, tmp_path: Path) -> None:
    asked = (FACT.prompt, OTHER.prompt, "Bruno Keller speaks")
    base = logits(editor.lm, *asked)
    first, second = editor.write([FACT], "melo", steps=20, radius=0.3)[0], editor.write(OTHER, "melo", radius=0.3)
    both = logits(editor.lm, *asked)
    with open_editor(tiny.build("llama"), book=editor.book.path) as again:
        assert torch.equal(logits(again.lm, *asked), both)
    editor.drop(first.id)
    with open_editor(tiny.build("llama"), book=tmp_path / "another") as fresh:
        assert fresh.write(OTHER, "melo", radius=0.3).deltas.keys() == second.deltas.keys()
        assert torch.equal(logits(fresh.lm, *asked), logits(editor.lm, *asked))  # a book that never had it
    editor.restore(first.id)
    assert torch.equal(logits(editor.lm, *asked), both)
    editor.drop(first.id, second.id)
    assert torch.equal(logits(editor.lm, *asked), base)


def test_a_checkpoint_cannot_hold_it_and_says_so(editor: Editor, tmp_path: Path) -> None:
    edit = editor.write(FACT, "melo", steps=5)
    with pytest.raises(InputError, match=edit.id[:8]):
        editor.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    editor.drop(edit.id)
    editor.save(tmp_path / "out")


def test_other_methods_can_write_on_top(editor: Editor) -> None:
    """ROME learns behind the index, from cached states: its rows are routed before."""
    first = editor.write(FACT, "melo", steps=20, radius=0.3)
    for method, settings in (("rome", {"layer": 2, "tokens": 400}), ("ft", {"layer": 2, "steps": 5})):
        before = editor.lm.logprobs([Query(OTHER.prompt, OTHER.target)])[0].sum()
        edit = editor.write(OTHER, method, **settings)
        assert editor.lm.logprobs([Query(OTHER.prompt, OTHER.target)])[0].sum() > before
        editor.drop(edit.id)
    assert [r.id for r in editor.log() if r.stands] == [first.id]


def test_a_bank_goes_on_from_what_was_just_written(editor: Editor) -> None:
    first = editor.write(FACT, quick())
    bank = editor.lm.weights.grafts.bank(f"melo@{quick().resolve(editor.lm).at()}")
    assert isinstance(bank, Blocks)
    editor.write(OTHER, quick())
    assert editor.lm.weights.grafts.bank(bank.name) is bank
    assert bank.edits == 2
    both = logits(editor.lm, FACT.prompt, OTHER.prompt)
    editor.lm.weights.stand([])
    editor.lm.weights.stand([edit.deltas for edit in editor.standing])
    assert editor.lm.weights.grafts.bank(bank.name) is not bank
    assert torch.equal(logits(editor.lm, FACT.prompt, OTHER.prompt), both)
    assert editor.standing[0].id == first.id


# ------------------------------------------------------------------ settings


def test_layers_follow_the_index_and_the_index_the_layers(models: Models) -> None:
    lm = models("llama")
    assert (Melo().resolve(lm).index, Melo().resolve(lm).layers) == (1, (2,))
    assert Melo(index=0).resolve(lm).layers == (1, 2)
    assert Melo(layers=(1,)).resolve(lm).index == 0
    t5 = Melo().resolve(models("t5"))
    assert (t5.index, t5.key, t5.layers) == (1, "up", (2, 4))
    with pytest.raises(BadConfig, match="keys are read before"):
        Melo(index=2, layers=(1, 2)).resolve(lm)
    with pytest.raises(BadConfig, match="keys are read before"):
        Melo(layers=(0,)).resolve(lm)
    with pytest.raises(UnsupportedModel, match="only one"):
        Melo().resolve(tiny.build("llama", num_hidden_layers=1))


def test_alpha_over_p_is_the_scale(models: Models) -> None:
    lm = models("llama")
    edit = quick(alpha=8.0).solve(lm, [FACT])
    assert edit.deltas[Site(2, "down")].config["scale"] == 2.0  # type: ignore[union-attr]
