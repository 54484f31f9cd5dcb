"""CounterFact, in the form it was published in and in EasyEdit's: two readers that refuse each other's files.

Data: Meng et al., https://arxiv.org/abs/2202.05262 (original records); Yao et al., https://arxiv.org/abs/2305.13172
(one-hop and alias questions added to some of them); Wang et al., https://arxiv.org/abs/2308.07269 (EasyEdit's form).

EasyEdit's `rephrase_prompt` is one of the *generation* prompts in about 84 % of the records: it does not ask for the
fact. A number measured on it is not the paraphrase score of the ROME paper, so it becomes a probe of its own,
`rephrase_easyedit`. Lists that were filled in later (pooled from other records, made from templates) are left out: only
what is marked as published, or not marked at all, is read.
"""

from __future__ import annotations

from errata.data.case import Answerable, Case
from errata.data.readers.raw import RawRow, build
from errata.data.wording import of_relation


def original(record: RawRow) -> Case:
    """Read one record of the original form: requested_rewrite, paraphrase_prompts, neighborhood_prompts, …"""
    if "requested_rewrite" not in record:
        hint = " This looks like EasyEdit's form: read it as counterfact-easyedit." if "target_new" in record else ""
        raise record.bad("requested_rewrite", f"missing.{hint}")
    template, subject, target, truth = rewrite(record, "requested_rewrite.")
    one_place(record, "requested_rewrite.prompt", template)
    return build(
        "counterfact",
        record.name("case_id"),
        template.replace("{}", subject),
        target,
        subject=subject,
        truth=truth,
        rephrases=record.texts("paraphrase_prompts"),
        question=of_relation(record.text("requested_rewrite.relation_id", ""), subject),
        neighborhood=tuple((p, truth) for p in record.texts("neighborhood_prompts")),
        unrelated=_unrelated(record),
        portability=_portability(record, template, target),
        generation=tuple(dict.fromkeys(record.texts("generation_prompts"))),
        references=tuple(f"{p} {target}." for p in record.texts("attribute_prompts")),
    )


def rewrite(record: RawRow, at: str = "", truth: str | None = None) -> tuple[str, str, str, str]:
    """Return what a `requested_rewrite` says: the prompt with "{}" for the subject, subject, target and truth.

    Args:
        at: what stands before the names of its fields, where `record` is not the rewrite itself.
        truth: what is returned where there is no truth; the field has to be there unless given.
    """
    subject, target = record.text(f"{at}subject"), record.text(f"{at}target_new.str")
    return record.text(f"{at}prompt"), subject, target, record.text(f"{at}target_true.str", truth)


def one_place(record: RawRow, path: str, template: str) -> None:
    """Raise BadFile unless the prompt has exactly one "{}"."""
    if template.count("{}") != 1:
        raise record.bad(path, f"must have exactly one '{{}}' for the subject, not {template.count('{}')}.")


def _unrelated(record: RawRow) -> tuple[tuple[str, str], ...]:
    if "unrelated_relation" not in record:
        return ()
    return ((record.text("unrelated_relation.question"), record.text("unrelated_relation.object")),)


def _portability(record: RawRow, template: str, target: str) -> dict[str, tuple[Answerable, ...]]:
    found: dict[str, tuple[Answerable, ...]] = {}
    if "portability" in record:
        found["one_hop"] = (one_hop(record, "portability."),)
    if "alternative_subject" in record:
        found["alias"] = ((template.replace("{}", record.text("alternative_subject")), (target,)),)
    return found


def one_hop(record: RawRow, at: str = "") -> Answerable:
    """Return the question that Yao et al. had written for records of CounterFact and zsRE.

    Args:
        at: what stands before the names of its fields, where `record` is not the question itself.
    """
    return record.text(f"{at}New Question"), record.answers(f"{at}New Answer")


def easyedit(record: RawRow) -> Case:
    """Read one record of EasyEdit's form: prompt, subject, target_new, rephrase_prompt, locality_prompt, …"""
    if "requested_rewrite" in record:
        raise record.bad("requested_rewrite", "this is CounterFact's original form: read it as counterfact.")
    prompt, subject, target, truth = flat(record)
    answer = record.answer("locality_ground_truth") or truth
    return build(
        "counterfact-easyedit",
        record.name("case_id"),
        prompt,
        target,
        subject=subject,
        truth=truth,
        rephrases=_published(record, "paraphrase"),
        rephrases_easyedit=record.texts("rephrase_prompt"),
        question=record.text("question", "") or of_relation(record.text("relation_id", ""), subject),
        neighborhood=tuple((p, truth) for p in _published(record, "neighborhood") if truth),
        unrelated=tuple((p, answer) for p in record.texts("locality_prompt")),
        generation=tuple(dict.fromkeys(_published(record, "generation"))),
    )


def flat(record: RawRow) -> tuple[str, str, str, str]:
    """Return prompt, subject, target and truth of a row with `target_new`, as EasyEdit and KnowEdit have it."""
    subject, target = record.text("subject"), record.text("target_new")
    truth = record.answer("ground_truth", "target_true")
    return record.text("prompt").replace("{}", subject), subject, target, truth


def _published(record: RawRow, kind: str) -> tuple[str, ...]:
    marked = record.text(f"{kind}_source", "published")
    return record.texts(f"{kind}_prompts") if marked == "published" else ()
