"""Questions that follow from several facts, or ask for one from another side: MQuAKE and HalluEditBench.

Data: Zhong et al. (MQuAKE), https://arxiv.org/abs/2305.14795; Wu et al. (AKEW), https://arxiv.org/abs/2402.18909;
Huang et al. (HalluEditBench), https://arxiv.org/abs/2410.16251.
"""

from __future__ import annotations

from errata.data.case import Case
from errata.data.readers.counterfact import one_place, rewrite
from errata.data.readers.knowedit import portability
from errata.data.readers.raw import RawRow, build, fact
from errata.fact import Fact


def mquake(record: RawRow) -> Case:
    """Read one chain of edits with its three multi-hop questions (any of them answered rightly counts)."""
    rewrites = record.subs("requested_rewrite")
    if not rewrites:
        raise record.bad("requested_rewrite", "missing or empty.")
    (prompt, subject, target, truth), *further = [_rewrite(rewrite) for rewrite in rewrites]
    number = record.name("case_id")
    right = (record.text("new_answer"), *record.answers("new_answer_alias"))
    questions = record.texts("questions")
    if not questions:
        raise record.bad("questions", "missing or empty.")
    also = [_fact(record, f"mquake-{number}.{i}", *parts) for i, parts in enumerate(further, start=2)]
    portability = {"multi_hop": tuple((question, right) for question in questions)}
    return build(
        "mquake", number, prompt, target, subject=subject, truth=truth, also=tuple(also), portability=portability
    )


def _rewrite(record: RawRow) -> tuple[str, str, str, str]:
    template, subject, target, truth = rewrite(record, truth="")
    one_place(record, "prompt", template)
    return template.replace("{}", subject), subject, target, truth


def _fact(record: RawRow, name: str, *parts: str) -> Fact:
    found = fact(name, *parts)
    if not found.subject:  # the chain would have a hole
        raise record.bad("requested_rewrite", f"the subject {parts[1]!r} does not stand in its prompt.")
    return found


def halluedit(record: RawRow) -> Case:
    """Read one hallucination with its correction.

    Rephrased questions are paraphrases; reversed, yes and no questions and those over 2 to 6 hops are portability by
    kind. The locality question comes without an answer: what counts is whether the model's own changes.
    """
    asked = {**portability(record, "generalization"), **portability(record)}
    rephrases = tuple(prompt for prompt, _ in asked.pop("rephrase", ()))
    names = {"reversed": "inverse", **{f"{n}hop": f"{n}_hop" for n in range(2, 7)}}
    return build(
        f"halluedit {record.text('topic', '')}".strip(),
        record.name("case_id"),
        record.text("prompt"),
        record.text("target_new"),
        subject=record.text("subject"),
        truth=record.text("hallucinate", ""),
        rephrases=rephrases,
        unrelated=tuple((prompt, "") for prompt in record.texts("locality.prompt")),
        portability={names.get(kind, kind): questions for kind, questions in asked.items()},
    )
