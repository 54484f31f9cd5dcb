"""CounterFact, in the form it was published in and in EasyEdit's: two readers that refuse each other's files.

Data: Meng et al., https://arxiv.org/abs/2202.05262 (original records); Yao et al., https://arxiv.org/abs/2305.13172
(one-hop and alias questions added to some of them); Wang et al., https://arxiv.org/abs/2308.07269 (EasyEdit's form).

EasyEdit's `rephrase_prompt` is one of the *generation* prompts in about 84 % of the records: it does not ask for the
fact. A number measured on it is not the paraphrase score of the ROME paper, so it becomes a probe of its own,
`rephrase_easyedit`. Lists that were filled in later (pooled from other records, made from templates) are left out: only
what is marked as published, or not marked at all, is read.
"""

from __future__ import annotations

from errata.data.case import Case, Question
from errata.data.readers.raw import Record, build


def original(record: Record) -> Case:
    """Read one record of the original form: requested_rewrite, paraphrase_prompts, neighborhood_prompts, …"""
    if "requested_rewrite" not in record:
        hint = " This looks like EasyEdit's form: read it as counterfact-easyedit." if "target_new" in record else ""
        raise record.bad("requested_rewrite", f"missing.{hint}")
    template, subject = template_of(record, "requested_rewrite")
    target, truth = record.text("requested_rewrite.target_new.str"), record.text("requested_rewrite.target_true.str")
    return build(
        "counterfact",
        record.name("case_id"),
        template.replace("{}", subject),
        target,
        subject=subject,
        truth=truth,
        rephrases=record.texts("paraphrase_prompts"),
        neighborhood=tuple((p, truth) for p in record.texts("neighborhood_prompts")),
        unrelated=_unrelated(record),
        portability=_portability(record, template, target),
        generation=tuple(dict.fromkeys(record.texts("generation_prompts"))),
        references=tuple(f"{p} {target}." for p in record.texts("attribute_prompts")),
    )


def template_of(record: Record, path: str) -> tuple[str, str]:
    """Return a rewrite's prompt with its "{}" and its subject.

    Raises:
        BadFile: the prompt does not have exactly one "{}".
    """
    prompt = record.text(f"{path}.prompt")
    if prompt.count("{}") != 1:
        raise record.bad(f"{path}.prompt", f"must have exactly one '{{}}' for the subject, not {prompt.count('{}')}.")
    return prompt, record.text(f"{path}.subject")


def _unrelated(record: Record) -> tuple[tuple[str, str], ...]:
    if "unrelated_relation" not in record:
        return ()
    return ((record.text("unrelated_relation.question"), record.text("unrelated_relation.object")),)


def _portability(record: Record, template: str, target: str) -> dict[str, tuple[Question, ...]]:
    found: dict[str, tuple[Question, ...]] = {}
    if "portability" in record:
        found["one_hop"] = ((record.text("portability.New Question"), record.answers("portability.New Answer")),)
    if "alternative_subject" in record:
        found["alias"] = ((template.replace("{}", record.text("alternative_subject")), (target,)),)
    return found


def easyedit(record: Record) -> Case:
    """Read one record of EasyEdit's form: prompt, subject, target_new, rephrase_prompt, locality_prompt, …"""
    if "requested_rewrite" in record:
        raise record.bad("requested_rewrite", "this is CounterFact's original form: read it as counterfact.")
    subject, target = record.text("subject"), record.text("target_new")
    truth = next(iter((*record.answers("ground_truth"), *record.answers("target_true"))), "")
    answer = next(iter(record.answers("locality_ground_truth")), truth)
    return build(
        "counterfact-easyedit",
        record.name("case_id"),
        record.text("prompt").replace("{}", subject),
        target,
        subject=subject,
        truth=truth,
        rephrases=_published(record, "paraphrase"),
        rephrases_easyedit=record.texts("rephrase_prompt"),
        neighborhood=tuple((p, truth) for p in _published(record, "neighborhood") if truth),
        unrelated=tuple((p, answer) for p in record.texts("locality_prompt")),
        generation=tuple(dict.fromkeys(_published(record, "generation"))),
    )


def _published(record: Record, kind: str) -> tuple[str, ...]:
    marked = record.text(f"{kind}_source", "published")
    return record.texts(f"{kind}_prompts") if marked == "published" else ()
