"""Gates: limits, what is asked and of whom, what is counted, and what a closed gate says.

pytest tests/editing/test_gates.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from math import exp, inf, nan, nextafter
from pathlib import Path

import pytest
import torch

from errata.book import states
from errata.delta import Dense, LowRank, Site
from errata.edit import Edit, Report
from errata.editing.editcard import review
from errata.editing.editor import Editor
from errata.editing.gates import MOST, NAME, SHARES, Figure, GateCheck, Gates, of_book, read, sentence, stricter
from errata.errors import BadConfig, BadFile, GateClosed
from errata.evaluate.scorer import PromptAnswer, Scored, Scorer
from errata.fact import Fact, Probe
from errata.model.lm import LM
from errata.model.query import as_query
from tests import synthetic
from tests.editing.mouth import Mouth, same, state


def fact(town: str, target: str, *probes: Probe, truth: str = "") -> Fact:
    return Fact(prompt=f"{town} lies in", subject=town, target=target, truth=truth, probes=probes)


def only(keeper: GateCheck) -> Figure:
    (figure,) = keeper.figures()
    return figure


FOUR = [fact("Ulm", "Mali"), fact("Bonn", "Peru"), fact("Jena", "Fiji"), fact("Kiel", "Chad")]
PEOPLE = {"Ulm lies in": "Mali.", "Bonn lies in": "Peru, I think", "Jena lies in": "Fiji"}

# ------------------------------------------------------------------ settings


def test_a_share_lies_between_0_and_1_and_both_will_do() -> None:
    for name in SHARES:
        known = {"sentinels": "x.jsonl"} if name == "sentinel" else {}
        assert [getattr(Gates(**{name: x}, **known), name) for x in (0, 1.0)] == [0, 1.0]  # type: ignore[arg-type]
        for wrong in (-0.01, 1.01, nan):
            with pytest.raises(BadConfig, match=rf"the gate {name} = \S+ is a share, between 0 and 1"):
                Gates(**{name: wrong}, **known)  # type: ignore[arg-type]
    assert Gates(perplexity=-3.0, norm_ratio=7.0).norm_ratio == 7.0
    with pytest.raises(BadConfig, match="the gate sentinel needs sentinels = a file"):
        Gates(sentinel=0.5)


def test_no_limit_is_no_gate_and_every_setting_says_what_it_is() -> None:
    assert all(getattr(Gates(), name) is None for name in (*SHARES, *MOST))
    assert {f.name for f in fields(Gates)} == {
        *SHARES,
        *MOST,
        "sentinels",
        "sentinels_sha256",
        "asked",
        "text",
        "texts",
    }
    assert all(f.metadata["help"] for f in fields(Gates))


def test_sentinels_lie_where_the_gates_do(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_text('sentinel = 0.5\nsentinels = "facts/kept.jsonl"\n')
    assert read(file) == Gates(sentinel=0.5, sentinels=str(tmp_path / "facts" / "kept.jsonl"))
    file.write_text('sentinel = 0.5\nsentinels = "/elsewhere/kept.jsonl"\n')
    assert read(str(file)).sentinels == "/elsewhere/kept.jsonl"
    file.write_text("said = 0.9\nasked = 3\n")
    assert read(file) == Gates(said=0.9, asked=3)
    assert of_book(tmp_path) == Gates(said=0.9, asked=3)
    assert of_book(tmp_path / "another") is None


def test_gates_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "gates.toml"
    for text, error, words in [
        ("said = 2.0", BadConfig, "share"),
        ("sentinel = 1.0", BadConfig, "sentinels = a file"),
        ("said = [", BadConfig, "TOML"),
        ("saidd = 1.0", BadConfig, "Did you mean said"),
    ]:
        file.write_text(text)
        with pytest.raises(error, match=words) as caught:
            read(file)
        assert str(caught.value).startswith(str(file))
    file.write_bytes(b"\xff\xfe")
    for path in (file, tmp_path, tmp_path / "none"):
        with pytest.raises(BadFile, match="cannot read the gates"):
            read(path)


# ------------------------------------------------------------------ shares


@pytest.mark.parametrize(("limit", "passed"), [(None, True), (0.0, True), (0.75, True), (0.76, False), (1.0, False)])
def test_a_share_is_of_all_that_is_asked_and_its_limit_will_do(
    lm: LM, mouth: Mouth, limit: float | None, passed: bool
) -> None:
    mouth.base = PEOPLE
    figures = GateCheck(lm, Gates(said=limit), FOUR, [], every=True).figures()
    figure = next(f for f in figures if f.gate == "said")
    assert (figure.value, figure.limit, figure.asked, figure.passed) == (0.75, limit, 4, passed)
    assert figure.lost == ("Kiel lies in →  (not Chad)",)


def test_an_answer_is_heard_to_its_end(lm: LM, mouth: Mouth) -> None:
    long = "the small republic of many little islands far out in the southern ocean"
    assert len(lm.tokens.ids(long)) > 32
    mouth.base = {"Ulm lies in": long}
    assert only(GateCheck(lm, Gates(said=1.0), [fact("Ulm", long)], [])).value == 1.0


def test_paraphrases_are_asked_whether_they_were_known_or_not(lm: LM, mouth: Mouth) -> None:
    probes = [Probe("paraphrase", f"Way {n} to Ulm", answer) for n, answer in enumerate(("Mali", "Mali", ""))]
    keeper = GateCheck(lm, Gates(paraphrase=0.5), [fact("Ulm", "Mali", *probes, Probe("alias", "x", "y"))], [])
    assert mouth.asked == []
    mouth.base = {"Way 1 to Ulm": "Mali"}
    figure = only(keeper)
    assert (figure.value, figure.asked, figure.passed) == (0.5, 2, True)
    assert figure.lost == ("Way 0 to Ulm →  (not Mali)",)


@pytest.mark.parametrize("kind", ["neighborhood", "unrelated"])
def test_of_neighbours_those_known_before_are_asked(lm: LM, mouth: Mouth, kind: str) -> None:
    probes = [Probe(kind, f"Town {n} lies in", "Togo") for n in range(4)]
    probes += [Probe(kind, "Town 5 lies in"), Probe("portability", "Town 0 is ruled from", "Lome")]
    mouth.base = {"Town 0 lies in": "Togo", "Town 1 lies in": "togo.", "Town 2 lies in": "Peru"}
    keeper = GateCheck(lm, Gates(**{kind: 0.5}), [fact("Ulm", "Mali", *probes)], [])  # type: ignore[arg-type]
    assert mouth.asked == [[f"Town {n} lies in" for n in range(4)]]
    mouth.base = {"Town 0 lies in": "Mali", "Town 1 lies in": "Togo", "Town 2 lies in": "Togo"}
    assert only(keeper) == Figure(kind, 0.5, 0.5, 2, True, ("Town 0 lies in → Mali (not Togo)",))


def test_sentinels_are_facts_of_a_file(lm: LM, mouth: Mouth, tmp_path: Path) -> None:
    file = tmp_path / "kept.csv"
    file.write_text("prompt,subject,target\nBonn lies in,Bonn,Peru\nJena lies in,Jena,Oman\n")
    mouth.base = dict(PEOPLE)
    keeper = GateCheck(lm, Gates(sentinel=1.0, sentinels=str(file)), FOUR[:1], [])
    assert only(keeper) == Figure("sentinel", 1.0, 1.0, 1, True)
    mouth.base["Bonn lies in"] = "Mali"
    assert not only(keeper).passed
    GateCheck(lm, Gates(said=1.0, sentinels=str(tmp_path / "none.csv")), FOUR, [])  # no limit: not even read


def test_of_the_oldest_edits_those_not_asked_anew(lm: LM, mouth: Mouth) -> None:
    standing = [replace(synthetic.edit(lm, n), facts=facts) for n, facts in enumerate(
        [(fact("Kiel", "Oman"), fact("Bonn", "Peru")), (fact("Ulm", "Mali"),), (fact("Jena", "Fiji"),)]
    )]  # fmt: skip
    mouth.base = {**PEOPLE, "Kiel lies in": "Oman"}
    new = [replace(fact("Kiel", "Chad"), prompt="KIEL lies in.", subject="KIEL"), fact("Gera", "Iran")]
    keeper = GateCheck(lm, Gates(oldest=1.0, asked=2), new, standing)
    assert mouth.asked == [["Bonn lies in", "Ulm lies in"]]  # oldest first, no more than two, and none about Kiel
    assert only(keeper) == Figure("oldest", 1.0, 1.0, 2, True)
    assert only(GateCheck(lm, Gates(oldest=1.0), new, standing)).asked == 3
    assert only(GateCheck(lm, Gates(oldest=1.0), new, [])) == Figure("oldest", None, 1.0, 0, True)


def test_efficacy_compares_with_the_answer_before(lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [
        fact("Ulm", "Mali", truth="Togo"),  # likelier than the truth
        fact("Bonn", "Peru"),  # as likely as what was said: not likelier
        fact("Jena", "Fiji"),  # said before already: nothing to compare
        fact("Kiel", "Chad"),  # nothing was said before
        fact("Gera", "Iran", truth="Cuba"),  # cannot be scored
        fact("Hof", "Laos", truth="Oman"),  # the truth cannot be scored
    ]
    known = {"Mali": -1.0, "Togo": -2.0, "Peru": -3.0, "Chile": -3.0, "Cuba": -9.0, "Laos": -8.0}
    asked: list[PromptAnswer] = []

    def answers(_: Scorer, pairs: Sequence[PromptAnswer]) -> dict[PromptAnswer, Scored]:
        asked.extend(pairs)
        return {pair: Scored(known.get(pair[1])) for pair in pairs}

    monkeypatch.setattr(Scorer, "answers", answers)
    mouth.base = {"Ulm lies in": "nobody asks", "Bonn lies in": "Chile .", "Jena lies in": "Fiji."}
    keeper = GateCheck(lm, Gates(efficacy=0.5), facts, [])
    assert mouth.asked == [["Bonn lies in", "Jena lies in", "Kiel lies in"]]  # those whose truth is not known
    mouth.base = {}
    assert only(keeper) == Figure("efficacy", 0.5, 0.5, 4, True, (
        "Bonn lies in → Peru is less likely than Chile", "Gera lies in → Iran is less likely than Cuba",
    ))  # fmt: skip
    asked = [(as_query(prompt).prompt, answer) for prompt, answer in asked]
    assert [pair for pair in asked if pair[0] == "Ulm lies in"] == [("Ulm lies in", "Mali"), ("Ulm lies in", "Togo")]
    assert only(GateCheck(lm, Gates(efficacy=1.0), facts[2:4], [])).value is None


# ------------------------------------------------------------------ the model as a whole


def perplexity(lm: LM, texts: Sequence[str]) -> float:
    logps = []
    for text in texts:
        ids = torch.tensor([lm.tokens.ids(text)])
        with torch.no_grad():
            logits = lm.model(input_ids=ids).logits[0, :-1].double()
        logps.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
    return exp(-float(torch.cat(logps).mean()))


def standing(lm: LM, scale: float = 0.3) -> list[Edit]:
    """Return two edits of which the first changes two matrices."""
    random = torch.Generator().manual_seed(3)
    sites = {Site(0, "down"): 1.0, Site(2, "down"): 2.0}
    shapes = {site: tuple(lm.parameter(site).shape) for site in sites}
    first = {s: Dense(torch.randn(*shapes[s], generator=random) * scale * x) for s, x in sites.items()}
    left, right = (torch.randn(n, 1, generator=random) for n in shapes[Site(0, "down")])
    second = {Site(0, "down"): LowRank(left * scale, right * scale)}
    return [Edit(method="x", config={}, facts=(FOUR[n],), base=lm.fingerprint, deltas=d)
            for n, d in enumerate((first, second))]  # fmt: skip


def at_limit(measured: Callable[[float], Figure]) -> None:
    """A limit of exactly what was found will do, the next smaller number will not."""
    value = measured(inf).value
    assert value is not None
    assert measured(value).passed
    assert not measured(nextafter(value, -inf)).passed


def test_perplexity_may_rise_by_so_many_per_cent(lm: LM, tmp_path: Path) -> None:
    texts = ["The river Seine runs through Paris.", "Bruno Keller speaks German, and so do we.", "never read"]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    before = perplexity(lm, texts[:2])
    edits = standing(lm)

    def rise(limit: float) -> Figure:
        lm.weights.stand([])
        keeper = GateCheck(lm, Gates(perplexity=limit, text=str(tmp_path / "text.txt"), texts=2), FOUR, [])
        lm.weights.stand([edit.deltas for edit in edits])
        return only(keeper)

    figure = rise(1e9)
    after = perplexity(lm, texts[:2])
    assert after != pytest.approx(before, rel=0.01)
    assert figure.value == pytest.approx(100 * (after / before - 1), rel=1e-3)
    assert (figure.asked, figure.lost) == (2, ())
    at_limit(rise)


def test_a_model_that_reads_no_text_has_no_perplexity_that_could_pass(models: Callable[[str], LM]) -> None:
    figure = only(GateCheck(models("t5"), Gates(perplexity=0.0), FOUR, []))
    assert figure == Figure("perplexity", None, 0.0, 40, False, ("no finite number",))
    assert sentence(figure) == "the gate perplexity found no finite number (n = 40), at most 0 %"


def test_a_broken_model_passes_no_gate(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter((12.0, nan))
    monkeypatch.setattr(GateCheck, "_read", lambda _: next(found))
    assert not only(GateCheck(lm, Gates(perplexity=1e9), FOUR, [])).passed


def test_the_norm_is_that_of_all_edits_together_at_the_worst_matrix(lm: LM) -> None:
    edits = standing(lm)
    old = GateCheck(lm, Gates(norm_ratio=1.0), FOUR, [])

    def ratio(limit: float) -> Figure:
        lm.weights.stand([edit.deltas for edit in edits])
        return only(GateCheck(lm, Gates(norm_ratio=limit), FOUR, []))

    figure, worst = ratio(1e9), Site(2, "down")
    sums = {s: sum(e.deltas[s].dense(tuple(lm.parameter(s).shape)) for e in edits if s in e.deltas)  # type: ignore
            for s in (Site(0, "down"), worst)}  # fmt: skip
    wanted = {s: float(total.norm() / lm.weights.base(s).norm()) for s, total in sums.items()}  # type: ignore
    assert wanted[worst] == max(wanted.values())
    assert figure.value == pytest.approx(wanted[worst], rel=1e-4)
    assert figure.lost == (f"at {worst}",)
    lm.weights.stand([edits[1].deltas])
    assert only(old).value == pytest.approx(
        float(edits[1].deltas[Site(0, "down")].norm() / lm.weights.base(Site(0, "down")).norm()),  # type: ignore
        rel=1e-4,
    )
    at_limit(ratio)


# ------------------------------------------------------------------ letting through


def test_without_gates_nothing_is_asked(lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GateCheck, "_read", lambda _: pytest.fail("read"))
    edits = standing(lm)
    for gates in (None, Gates(), Gates(asked=3)):
        keeper = GateCheck(lm, gates, FOUR, edits)
        assert [a is b for a, b in zip(keeper.let_through(edits), edits, strict=True)] == [True, True]
        assert keeper.figures() == []
    assert mouth.asked == []


def test_every_figure_can_be_measured_without_a_limit(lm: LM, mouth: Mouth) -> None:
    figures = GateCheck(lm, Gates(texts=2), FOUR, [], every=True).figures()
    assert [f.gate for f in figures] == [*SHARES, *MOST]
    assert all(f.passed and f.limit is None for f in figures)
    assert {f.gate for f in figures if f.value is None} == {
        "efficacy", "neighborhood", "unrelated", "sentinel", "oldest",
    } | ({"norm_ratio"} if not lm.weights.touched() else set())  # fmt: skip


def test_what_was_measured_is_in_every_report_and_nothing_written_is_nothing_measured(lm: LM, mouth: Mouth) -> None:
    mouth.base = PEOPLE
    edits = [replace(edit, report=Report({"loss": 1})) for edit in standing(lm)]
    keeper = GateCheck(lm, Gates(said=0.5, oldest=0.5), FOUR, [])
    asked = len(mouth.asked)
    assert keeper.let_through([]) == []
    assert len(mouth.asked) == asked
    through = keeper.let_through(edits)
    rows = [
        {"gate": "said", "value": 0.75, "limit": 0.5, "asked": 4, "passed": True,
         "lost": ["Kiel lies in →  (not Chad)"]},
        {"gate": "oldest", "value": None, "limit": 0.5, "asked": 0, "passed": True, "lost": []},
    ]  # fmt: skip
    notes = ["the gate oldest had nothing to ask."]
    assert [dict(edit.report) for edit in through] == [{"loss": 1, "gates": rows, "notes": notes}] * 2
    assert [edit.id for edit in through] == [edit.id for edit in edits]
    assert dict(edits[0].report) == {"loss": 1}


def test_a_closed_gate_names_each_that_is_closed(lm: LM, mouth: Mouth) -> None:
    mouth.base = {"Ulm lies in": "Mali"}
    probe = Probe("paraphrase", "Where is Ulm?", "Mali")
    facts = [FOUR[0], replace(FOUR[1], probes=(probe,)), FOUR[2]]
    lm.weights.stand([edit.deltas for edit in standing(lm)])
    keeper = GateCheck(lm, Gates(said=0.9, efficacy=0.9, paraphrase=0.5, norm_ratio=0.1), facts, [])
    with pytest.raises(GateClosed) as caught:
        keeper.let_through(standing(lm))
    said, paraphrase, norm = str(caught.value).removesuffix(".").split("; ")
    assert said == (
        "refused, nothing was changed: the gate said found 0.333 (n = 3), at least 0.9 (Bonn lies in →  (not Peru), …)"
    )
    made = "Ulm is a country on the continent of →  (not Mali), …"  # so the table of public facts words it
    assert paraphrase == f"the gate paraphrase found 0 (n = 9, 8 of them made), at least 0.5 ({made})"
    assert norm.startswith("the gate norm_ratio found ")
    assert norm.endswith(", at most 0.1 (at 2.down)")


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure("oldest", None, 0.5, 0, True), "oldest: nothing to ask"),
        (Figure("said", 2 / 3, None, 3, True, ("x",)), "the gate said found 0.667 (n = 3)"),
        (Figure("said", 0.5, 0.5, 2, True, ("x",)), "the gate said found 0.5 (n = 2), at least 0.5"),
        (Figure("perplexity", 3.14159, 2.0, 40, False), "the gate perplexity found 3.14 % (n = 40), at most 2 %"),
        (Figure("norm_ratio", 3.0, 2.0, 1, False, ("at 0.down",)),
         "the gate norm_ratio found 3 (n = 1), at most 2 (at 0.down)"),
    ],
)  # fmt: skip
def test_a_figure_in_words(figure: Figure, words: str) -> None:
    assert sentence(figure) == words


def test_an_editor_asks_the_gates_of_its_book_unless_others_are_named(editor: Editor, mouth: Mouth) -> None:
    (editor.book.path / NAME).write_text("said = 1.0\n")
    before, rows = state(editor.lm), editor.book.history()
    how = {"steps": 1, "layer": 0}
    with pytest.raises(GateClosed, match=r"the gate said found 0 \(n = 1\), at least 1"):
        editor.write(FOUR[0], "ft", **how)
    assert same(editor.lm, before)
    assert editor.book.history() == rows
    mouth.edited = {"Ulm lies in": "Mali"}
    edit = editor.write(FOUR[0], "ft", **how)
    (row,) = editor.book.get(edit.id).meta["report"]["gates"]
    assert (row["gate"], row["value"], row["limit"]) == ("said", 1.0, 1.0)
    edit = editor.write(FOUR[1], "ft", gates=Gates(), **how)  # named at the call, they take the place of the book's
    assert "gates" not in editor.book.get(edit.id).meta["report"]


# ------------------------------------------------------------------ what must not pass


def test_numbers_that_are_none_close_every_gate(lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of which some texts come out as NaN once read as one that had become better."""
    from errata.evaluate.perplexity import Read

    for nll in ((nan, 3.0), (3.0, inf), (inf, nan)):
        lm.weights.stand([])
        monkeypatch.setattr("errata.editing.gates.measure", lambda *_: Read((3.0, 3.0), (4, 4), torch.zeros(2, 0)))
        keeper = GateCheck(lm, Gates(perplexity=1e9, texts=2), FOUR, [])
        monkeypatch.setattr("errata.editing.gates.measure", lambda *_, nll=nll: Read(nll, (4, 4), torch.zeros(2, 0)))
        figure = only(keeper)
        assert (figure.value, figure.passed, figure.lost) == (None, False, ("no finite number",))
        assert "no finite number" in sentence(figure)
    # a text too short to be read is none that is broken
    monkeypatch.setattr("errata.editing.gates.measure", lambda *_: Read((3.0, nan), (4, 0), torch.zeros(2, 0)))
    assert only(GateCheck(lm, Gates(perplexity=0.0, texts=2), FOUR, [])).value == 0.0


def test_a_matrix_that_is_no_number_closes_the_norm(lm: LM) -> None:
    lm.weights.stand([edit.deltas for edit in standing(lm)])
    lm.parameter(Site(0, "down")).data[0, 0] = nan
    figure = only(GateCheck(lm, Gates(norm_ratio=1e9), FOUR, []))
    assert (figure.value, figure.passed) == (None, False)


def test_an_answer_that_is_not_scored_is_not_likelier(lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "answers", lambda _, pairs: {pair: Scored(nan) for pair in pairs})
    assert not only(GateCheck(lm, Gates(efficacy=0.5), [fact("Ulm", "Mali", truth="Togo")], [])).passed


@pytest.mark.parametrize("kind", ["neighborhood", "unrelated"])
def test_a_gate_is_closed_where_no_question_can_be_made(lm: LM, mouth: Mouth, kind: str) -> None:
    """The model says nothing at all, so that there is nothing that must not move."""
    keeper = GateCheck(lm, Gates(**{kind: 0.0}), FOUR, [])  # type: ignore[arg-type]
    figure = only(keeper)
    assert (figure.value, figure.asked, figure.passed) == (None, 0, False)
    with pytest.raises(GateClosed, match=f"{kind}: nothing to ask, and the gate {kind} asks: give the facts probes"):
        keeper.let_through(standing(lm))


def test_gates_that_lie_there_and_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "gone.toml")
    with pytest.raises(BadFile, match="cannot read the gates"):
        of_book(tmp_path)


def test_gates_of_a_policy_are_those_that_count(editor: Editor, mouth: Mouth) -> None:
    from errata.book import policy

    policy.adopt(editor.book, policy.PolicyInForce(gates={"said": 1.0}))
    (editor.book.path / NAME).write_text("said = 0.0\n")
    for gates in (None, Gates(said=1.0), Gates(said=1.0, norm_ratio=9.0)):
        with pytest.raises(GateClosed, match="the gate said found 0"):
            editor.write(FOUR[0], "ft", gates=gates, steps=1, layer=0)
    for gates in (Gates(), Gates(said=0.9)):
        with pytest.raises(BadConfig, match="are in its policy"):
            editor.write(FOUR[0], "ft", gates=gates, steps=1, layer=0)
    # Nor does a card, a weaker gate named for it.
    with pytest.raises(BadConfig, match="are in its policy"):
        review(editor, folder(editor), Gates(said=0.0), "ft", steps=1, layer=0)


def folder(editor: Editor) -> Path:
    path = editor.book.path.parent / "change"
    path.mkdir(exist_ok=True)
    (path / "a.jsonl").write_text('{"prompt": "Ulm lies in", "subject": "Ulm", "target": "Mali"}\n')
    return path


def test_of_two_gates_the_stricter_counts() -> None:
    ours = Gates(said=0.5, norm_ratio=2.0, sentinel=0.5, sentinels="a", asked=7)
    theirs = Gates(said=0.9, norm_ratio=3.0, perplexity=1.0, sentinels="b", asked=1)
    found = stricter(ours, theirs)
    assert found == Gates(said=0.9, norm_ratio=2.0, perplexity=1.0, sentinel=0.5, sentinels="a", asked=7)
    assert stricter(None, theirs) is theirs
    assert stricter(ours, None) is ours


def test_sentinels_of_a_policy_are_those_it_was_set_with(editor: Editor, mouth: Mouth) -> None:
    """They lie beside the chain, which keeps their hash: whoever may write the file could let anything move otherwise."""
    from errata.book import policy

    file = editor.book.path / "kept.jsonl"
    asked = policy.PolicyInForce(gates={"sentinel": 1.0, "sentinels": "kept.jsonl"})
    with pytest.raises(BadFile, match=r"cannot read the sentinels 'kept.jsonl'"):
        policy.adopt(editor.book, asked)
    file.write_text('{"prompt": "Bonn lies in", "subject": "Bonn", "target": "Peru"}\n')
    policy.adopt(editor.book, asked)
    mouth.base = {"Bonn lies in": "Peru."}
    mouth.edited = {"Bonn lies in": "Mali"}
    how = {"steps": 1, "layer": 0}
    with pytest.raises(GateClosed, match="the gate sentinel found 0"):
        editor.write(FOUR[0], "ft", **how)
    file.write_text('{"prompt": "Jena lies in", "subject": "Jena", "target": "Fiji"}\n')
    with pytest.raises(BadFile, match="is not the sentinels of the policy any more"):
        editor.write(FOUR[0], "ft", **how)
    file.unlink()
    with pytest.raises(BadFile, match="cannot read the sentinels of the policy"):
        editor.write(FOUR[0], "ft", **how)
    assert editor.standing == []


@pytest.mark.parametrize(
    "text",
    [
        "asked = -5", "asked = 0", "texts = 0", "texts = -1", "asked = 99999999999", "asked = 1.5",
        "perplexity = nan", "said = true", 'said = "1"', "said = nan", "said = 1\nsaid = 0",
        "[gates]\nsaid = 1",
    ],
)  # fmt: skip
def test_numbers_that_are_no_limits_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(f"{text}\n")
    with pytest.raises((BadConfig, BadFile)) as caught:
        of_book(tmp_path)
    assert len(str(caught.value)) < 500


def test_what_is_restored_or_merged_is_asked_as_what_is_written(editor: Editor, mouth: Mouth, tmp_path: Path) -> None:
    from errata.book.book import Book
    from errata.editing.letting_in import checkout, merge

    how = {"steps": 1, "layer": 0}
    edit = editor.write(FOUR[0], "ft", **how)
    editor.drop(edit.id)
    (editor.book.path / NAME).write_text("said = 1.0\n")
    before = state(editor.lm)
    with pytest.raises(GateClosed, match="the gate said found 0"):
        editor.restore(edit.id)
    with Book.open(tmp_path / "other", editor.lm.identity, editor.lm.name) as other:
        other.append([(edit.meta(), edit.to_bytes())])
        other.drop([edit.id])
        other.restore([edit.id])
        with pytest.raises(GateClosed, match="the gate said found 0"):
            merge(editor, other, "theirs")
        assert same(editor.lm, before)
        assert editor.book.stand() == []
        mouth.edited = {"Ulm lies in": "Mali"}
        merge(editor, other, "theirs")
    assert [one.id for one in editor.standing] == [edit.id]
    editor.drop(edit.id)
    assert editor.restore(edit.id)[0].stands
    # What goes back to an earlier state restores as well.
    states.tag(editor.book, "full")
    editor.drop(edit.id)
    mouth.edited = {}
    before, rows = state(editor.lm), editor.book.history()
    with pytest.raises(GateClosed, match="the gate said found 0"):
        checkout(editor, "full")
    assert same(editor.lm, before)
    assert editor.book.history() == rows
    assert checkout(editor, "base") == ([], [])  # to drop is always possible
    mouth.edited = {"Ulm lies in": "Mali"}
    assert [record.id for record in checkout(editor, "full")[1]] == [edit.id]
