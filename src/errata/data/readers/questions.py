"""Question sets: zsRE in MEND's form and QAEdit.

Data: Levy et al., https://arxiv.org/abs/1706.04115; Mitchell et al. (MEND), https://arxiv.org/abs/2110.11309; Yao et
al., https://arxiv.org/abs/2305.13172 (portability, inverse and alias questions, machine-written and not free of
nonsense); Yang et al. (QAEdit), https://arxiv.org/abs/2502.11177.

zsRE is edited in two ways: EasyEdit and WISE write the counterfactual `alt` (reader "zsre"), ROME and MEMIT write the
true `answers[0]` (reader "zsre-true"). Results of the two do not compare.
"""

from __future__ import annotations

from errata.data.case import Answerable, Case
from errata.data.readers.counterfact import one_hop
from errata.data.readers.raw import RawRow, build


def zsre(record: RawRow) -> Case:
    """Read one zsRE record, to be edited to `alt`; to the first answer where a record has no `alt`."""
    return _zsre(record, "zsre", *towards(record.text("alt", ""), record))


def towards(alt: str, record: RawRow) -> tuple[str, str]:
    """Return a record's target and what was true before: `alt` and the first answer, or that alone and nothing."""
    first = record.answer("answers")
    if not (alt or first):
        raise record.bad("alt", "missing, and 'answers' too: one of them is the target.")
    return alt or first, first if alt else ""


def zsre_true(record: RawRow) -> Case:
    """Read one zsRE record, to be edited to the first of `answers`."""
    answers = record.answers("answers")
    if not answers:
        raise record.bad("answers", "missing or empty.")
    return _zsre(record, "zsre-true", answers[0], "")


def _zsre(record: RawRow, source: str, target: str, truth: str) -> Case:
    # MEMIT asks the locality question with a question mark, which the file leaves out, and keeps "nq question: ".
    asked = tuple((p if p.endswith("?") else f"{p}?", answer) for p, answer in unrelated(record))
    return build(
        source,
        record.name("case_id"),
        record.text("src"),
        target,
        subject=record.text("subject", ""),
        truth=truth,
        rephrases=record.texts("rephrase"),
        unrelated=asked,
        portability=_portability(record, target) if source == "zsre" else {},
    )


def unrelated(record: RawRow) -> tuple[tuple[str, str], ...]:
    """Return the questions of Natural Questions that an edit should not change, as the file has them."""
    return tuple((p, record.answer("loc_ans")) for p in record.texts("loc"))


def _portability(record: RawRow, target: str) -> dict[str, tuple[Answerable, ...]]:
    """Return the questions Yao et al. had written for `alt`; the inverse asks for the subject."""
    found: dict[str, tuple[Answerable, ...]] = {}
    if "portability" in record:
        found["one_hop"] = (one_hop(record, "portability."),)
    if inverse := record.texts("inverse_question"):
        found["inverse"] = tuple((p, (record.text("subject"),)) for p in inverse)
    if alias := record.texts("alter_subject_question"):
        found["alias"] = tuple((p, (target,)) for p in alias)
    return found


def qaedit(record: RawRow) -> Case:
    """Read one QAEdit record: questions the model answered wrongly, with five locality questions each."""
    return build(
        "qaedit",
        "-".join((*record.answers("source"), record.name("id"))),
        record.text("prompt"),
        record.text("target"),
        subject=record.text("subject", ""),
        rephrases=record.texts("rephrase"),
        unrelated=tuple((loc.text("loc"), loc.text("loc_ans", "")) for loc in record.subs("locality")),
    )
