"""Each form of record becomes the case it should, and each broken one is named by file, line and field.

pytest tests/data/test_readers.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from errata.data.cases import KNOWN, Case, parse
from errata.errors import BadFile
from errata.fact import Fact
from tests.data import made_up
from tests.data.made_up import FORMS


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Case]:
    """Return the function that writes one record to a file and reads it back as the named form."""

    def one(name: str, row: dict[str, Any] | None = None, **changes: Any) -> Case:
        row = {**(row or FORMS[name]), **changes}
        file = tmp_path / ("one.json" if name == "sanitation" else "one.jsonl")
        file.write_text(json.dumps({k: v for k, v in row.items() if v is not ...}) + "\n", encoding="utf-8")
        return parse(f"{name}:{file}").cases[0]

    return one


Read = Callable[..., Case]


def test_every_known_form_is_tested() -> None:
    assert {known.name for known in KNOWN} | {"jsonl"} == set(FORMS)


def test_counterfact(read: Read) -> None:
    case = read("counterfact")
    assert (case.id, case.prompt, case.subject) == ("counterfact-7", "The favourite dish of Ada Quill is", "Ada Quill")
    assert (case.target, case.truth) == ("soup", "bread")
    assert case.rephrases == tuple(made_up.COUNTERFACT["paraphrase_prompts"])
    assert (case.rephrases_easyedit, case.question) == ((), "")  # its relation has no number
    assert case.neighborhood == (("The favourite dish of Bo Reed is", "bread"), ("Cy Lane likes to eat", "bread"))
    assert case.unrelated == (("What colour is Ada Quill's hat?", "green"),)
    assert case.portability["one_hop"] == (("How is it served?", ("bowl",)),)
    assert case.portability["alias"] == (("The favourite dish of A. Quill is", ("soup",)),)
    assert case.generation == ("Ada Quill cooks", "At noon Ada Quill")
    assert case.references == ("The favourite dish of Di Marsh is soup.",)


def test_a_fact_carries_no_probes(read: Read) -> None:
    for name in FORMS:
        fact = read(name).fact
        assert fact is None or (not fact.probes and (not fact.rephrases or name == "jsonl")), name


def test_easyedit_keeps_its_rephrase_apart(read: Read) -> None:
    case = read("counterfact-easyedit")
    assert case.prompt == read("counterfact").prompt
    assert case.rephrases_easyedit == ("Ada Quill cooks",)
    assert case.rephrases == ("Ada Quill orders",)  # published
    assert case.neighborhood == ()  # pooled from other records: not what the benchmark asks
    assert case.generation == ()  # looked up
    assert case.unrelated == (("Cy Lane likes to eat", "bread"),)
    told = read("counterfact-easyedit", locality_ground_truth="cake", target_true=..., ground_truth=["bread"])
    assert (told.truth, told.unrelated) == ("bread", (("Cy Lane likes to eat", "cake"),))
    filled = read("counterfact-easyedit", prompt="The favourite dish of Ada Quill is")
    assert filled.prompt == case.prompt
    asked = {"question": "What does Ada Quill like to eat?", "relation_id": "P36"}
    assert read("counterfact-easyedit", **asked).question == asked["question"]  # its own before one of the relation's
    assert read("counterfact-easyedit", relation_id="P36").question == "What is the capital of Ada Quill?"


def test_the_two_forms_of_counterfact_are_never_mixed_up(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(made_up.EASYEDIT), encoding="utf-8")
    with pytest.raises(BadFile, match="read it as counterfact-easyedit"):
        parse(f"counterfact:{file}")
    file.write_text(json.dumps(made_up.COUNTERFACT), encoding="utf-8")
    with pytest.raises(BadFile, match="read it as counterfact"):
        parse(f"counterfact-easyedit:{file}")


def test_zsre_is_edited_to_alt_or_to_the_truth(read: Read) -> None:
    case, true = read("zsre"), read("zsre-true")
    assert (case.target, case.truth, true.target, true.truth) == ("Cy Lane", "Di Marsh", "Di Marsh", "")
    assert case.unrelated == true.unrelated == (("nq question: how many legs has a spider?", "eight"),)
    assert case.portability == {
        "one_hop": (("What trade?", ("mason",)),),
        "inverse": (("What did Cy Lane build?", ("the mill at Oxbow",)),),
        "alias": (("Who built Oxbow mill?", ("Cy Lane",)),),
    }
    assert true.portability == {}  # the questions were written for alt
    assert (read("zsre", alt="").target, read("zsre", alt="").truth) == ("Di Marsh", "")
    assert not read("zsre", subject="Oxbow Mill").needs_subject


def test_qaedit(read: Read) -> None:
    case = read("qaedit")
    assert (case.id, case.target, case.truth) == ("qaedit-NQ-3", "1901", "")
    assert case.unrelated == (("who wrote the song", "Bo Reed"), ("where is the sea", "west"))


def test_knowedit_triples(read: Read) -> None:
    case = read("wiki_recent")
    assert (case.id, case.truth, case.rephrases) == ("wiki_recent-0", "Reed & Co", ("Ada Quill works for",))
    assert case.portability == {
        "one_hop": (("The employer of Ada Quill makes", ("flour", "meal", "bran")),),
        "alias": (("The employer of A. Quill is", ("Oxbow Mill",)),),
    }
    assert case.unrelated == (
        ("The mother of Ada Quill is", "Eve Quill"),
        ("Another employer of Ada Quill is", "Reed & Co"),
    )
    assert read("wiki_recent", portability=None, locality={}, ground_truth=...).unrelated == ()


def test_wikibio_and_wise_continue_passages(read: Read) -> None:
    bio, wise = read("wikibio"), read("wise-hallucination")
    assert (bio.target, bio.unrelated) == ("She began at twelve.", (("ada quill trade", "miller"),))
    assert wise.unrelated == (("The shop opens at", "nine every day but Sunday."),)
    assert bio.fact is not None
    assert wise.fact is not None
    assert bio.fact.span == (24, 33)


def test_convsent_draws_a_sentiment_by_the_name(read: Read) -> None:
    sides = {read("convsent", ent=f"Oxbow {i}").source for i in range(20)}
    assert sides == {"convsent to pos", "convsent to neg"}
    case = read("convsent", ent="Oxbow")
    assert {case.target, case.truth} == {"I love it.", "Dull."}
    assert case.references in (("I love it.", "Lovely."), ("Dull.",))
    assert case.prompt == "What do you think of Oxbow?"


def test_sanitation_deals_out_what_must_stay(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(made_up.SANITATION), encoding="utf-8")
    first, second = parse(f"sanitation:{file}")
    assert (first.id, first.truth, first.target) == ("sanitation-0", "Heron", "I don't know.")
    assert not first.needs_subject
    assert first.unrelated == (("What is 0 and 0?", "0"), ("What is 2 and 2?", "4"))
    assert second.unrelated == (("What is 1 and 1?", "2"),)
    file.write_text(json.dumps(made_up.SANITATION_TRAIN), encoding="utf-8")
    (named,) = parse(f"sanitation:{file}")
    assert named.fact is not None
    assert named.unrelated == (("What is one and one?", "2"),)


def test_mquake_writes_the_whole_chain(read: Read) -> None:
    case = read("mquake")
    assert [f.prompt for f in case.facts] == ["The Weir was written by", "Bo Reed is a citizen of"]
    assert [f.target for f in case.facts] == ["Bo Reed", "Norland"]
    assert [f.id for f in case.facts] == ["mquake-12", "mquake-12.2"]
    assert len(case.portability["multi_hop"]) == 3
    assert case.portability["multi_hop"][0][1] == ("Norland", "Kingdom of Norland")


def test_halluedit(read: Read) -> None:
    case = read("halluedit")
    assert (case.truth, case.rephrases) == ("tragedy", ("Which genre has The Weir?",))
    assert case.unrelated == (("Where is The Weir set?", ""),)
    assert set(case.portability) == {"inverse", "yes_question", "no_question", "2_hop"}


def test_long_answers_have_no_subject(read: Read) -> None:
    unke, everything = read("unke"), read("editeverything")
    assert unke.fact is not None
    assert everything.fact is not None
    assert unke.fact.subject == everything.fact.subject == ""
    assert not unke.needs_subject
    assert unke.portability["part"][1] == ("What does he do?", ("He sings.",))
    assert everything.target == "1 + 1 = 2.\nSo it is 2."


def test_ones_own(read: Read) -> None:
    case = read("jsonl")
    assert (case.id, case.prompt, case.rephrases) == ("mine", "Bo Reed lives in", ("Bo Reed is at home in",))
    assert case.neighborhood == (("Cy Lane lives in", "Sudland"),)  # the other one lives in the new answer anyway
    assert case.portability == {
        "one_hop": (("Bo Reed's capital is", ("Norby",)),),
        "alias": (("B. Reed lives in", ("Norland",)),),
    }
    assert case.unrelated == (("Bo Reed plays the", ""),)
    assert case.fact is not None
    assert (case.fact.rephrases, case.fact.reason) == (("The home of Bo Reed is",), "he moved")
    bare = read("jsonl", {"prompt": "Two and two make", "target": "five"})
    assert (bare.id, bare.rephrases) == ("0", ())
    assert bare.fact == Fact(id="0", prompt="Two and two make", target="five")
    turn = read("jsonl", {"prompt": "And what do Bo Reed's friends do?", "target": "sing", "subject": "Bo Reed",
                          "messages": [{"role": "system", "content": "Be brief."}]})  # fmt: skip
    assert turn.fact is not None
    assert (turn.fact.chat, turn.fact.earlier) == (True, (("system", "Be brief."),))
    assert read("jsonl", probes=[]).rephrases == ("The home of Bo Reed is",)


def changed(row: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with one nested field set, or removed for `...`."""
    row = deepcopy(row)
    *way, last = path.split(".")
    place: Any = row
    for key in way:
        place = place[int(key) if key.isdecimal() else key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return row


BROKEN = [
    ("counterfact", "requested_rewrite", ..., "requested_rewrite"),
    ("counterfact", "requested_rewrite.subject", ..., "requested_rewrite.subject"),
    ("counterfact", "requested_rewrite.subject", " ", "requested_rewrite.subject"),
    ("counterfact", "requested_rewrite.target_new", "soup", "requested_rewrite.target_new.str"),
    ("counterfact", "requested_rewrite.target_true.str", 7, "requested_rewrite.target_true.str"),
    ("counterfact", "requested_rewrite.prompt", "no place for it", "requested_rewrite.prompt"),
    ("counterfact", "requested_rewrite.prompt", "{} or {}", "requested_rewrite.prompt"),
    ("counterfact", "paraphrase_prompts", ["fine", 3], "paraphrase_prompts"),
    ("counterfact", "neighborhood_prompts", {"a": 1}, "neighborhood_prompts"),
    ("counterfact", "requested_rewrite.subject", "a\0b", "requested_rewrite.subject"),
    ("counterfact-easyedit", "target_new", ["soup"], "target_new"),
    ("counterfact-easyedit", "prompt", "", "prompt"),
    ("zsre", "src", ..., "src"),
    ("zsre-true", "answers", [], "answers"),
    ("qaedit", "locality", [{"loc_ans": "x"}], "loc"),
    ("qaedit", "locality", ["x"], "locality"),
    ("wiki_recent", "portability.Reasoning", [{"ground_truth": "x"}], "prompt"),
    ("wiki_recent", "portability", [1], "portability"),
    ("wikibio", "labels", None, "labels"),
    ("convsent", "ent", ..., "ent"),
    ("mquake", "requested_rewrite", [], "requested_rewrite"),
    ("mquake", "requested_rewrite.1.target_new", {}, "target_new.str"),
    ("mquake", "questions", [], "questions"),
    ("mquake", "new_answer", ..., "new_answer"),
    ("halluedit", "generalization", "x", "generalization"),
    ("unke", "sub_answer", ["only one"], "sub_answer"),
    ("editeverything", "answer", "", "answer"),
    ("jsonl", "target", ..., "target"),
    ("jsonl", "targt", "x", "targt"),
    ("jsonl", "subject", ..., "subject"),
    ("jsonl", "probes", [{"kind": "paraphase", "prompt": "x"}], "kind"),
    ("jsonl", "probes", [{"kind": "portability", "prompt": "x"}], "answer"),
]


@pytest.mark.parametrize(
    ("name", "path", "value", "field"), BROKEN, ids=[f"{n}-{p}-{i}" for i, (n, p, *_) in enumerate(BROKEN)]
)
def test_a_broken_record_is_named_by_file_line_and_field(
    name: str, path: str, value: Any, field: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(f"\n\n{json.dumps(changed(FORMS[name], path, value))}\n", encoding="utf-8")
    with pytest.raises(BadFile) as caught:
        parse(f"{name}:{file}")
    message = str(caught.value)
    assert f"{file}, line 3" in message
    assert f"field {field!r}" in message


def test_a_key_that_was_mistyped_gets_a_hint(read: Read) -> None:
    with pytest.raises(BadFile, match="Did you mean target"):
        read("jsonl", targt="x")
    with pytest.raises(BadFile, match="Did you mean paraphrase"):
        read("jsonl", probes=[{"kind": "paraphase", "prompt": "x"}])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "Nobody lives in"}, "does not stand in the prompt"),
        ({"probes": [{"kind": "paraphrase", "prompt": "x", "answer": "y", "weight": 3}]}, "no probe field 'weight'"),
        ({"rephrases": ["", "a"]}, "one of the rephrases is empty"),
        ({"subject": " "}, "subject"),
    ],
)
def test_bench_takes_no_row_that_edit_refuses(read: Read, changed: dict[str, object], words: str) -> None:
    """What is measured would be another fact than what could be written."""
    with pytest.raises(BadFile, match=words):
        read("jsonl", {**FORMS["jsonl"], **changed})
