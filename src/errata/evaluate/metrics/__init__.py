"""The table of metrics: what each number is called, which function defines it, which rows it is made from, how it is
shown.

Adding a metric: a function in one of these files that gives a score, one line in `errata.evaluate.rows` that puts it
into the rows of a probe, and one row here. Summaries, the report, the terminal and docs/benchmarks.md then have it.

A package of its own adds a `Metric` that has a `score` under the entry-point group ``errata.metrics``: it is made of what rows
hold (prompt, said, expected, likelihoods, scores) when they are summed up, so that rows are the same whatever is installed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from errata import plugins
from errata.evaluate.metrics.ability import HARNESS, general_ability
from errata.evaluate.metrics.base import Array, Metric, Row, Score
from errata.evaluate.metrics.collapse import norm_ratio, perplexity, residual_share
from errata.evaluate.metrics.fluency import TfIdf, consistency, fluency
from errata.evaluate.metrics.locality import drift, locality_gold, locality_unchanged
from errata.evaluate.metrics.longform import rouge_l, said_in_part, sentences_said
from errata.evaluate.metrics.portability import portability, portability_said
from errata.evaluate.metrics.probability import (
    SENTENCE,
    answer_perplexity,
    efficacy,
    exact,
    lp,
    neighborhood,
    paraphrase,
    score,
    token_accuracy,
)
from errata.evaluate.metrics.retention import retention
from errata.evaluate.metrics.speech import judged, replied, said, said_contains
from errata.evaluate.metrics.wild import (
    after_quantisation,
    distractor,
    grounded,
    language,
    negation,
    negation_efficacy,
    neighborhood_plus,
    reversal,
    reversed_said,
    reworded,
    same_subject,
)

__all__ = [
    "HARNESS",
    "METRICS",
    "SENTENCE",
    "Array",
    "Metric",
    "Row",
    "Score",
    "TfIdf",
    "after_quantisation",
    "answer_perplexity",
    "consistency",
    "distractor",
    "drift",
    "efficacy",
    "exact",
    "fluency",
    "general_ability",
    "grounded",
    "judged",
    "language",
    "locality_gold",
    "locality_unchanged",
    "lp",
    "metrics_of",
    "named",
    "negation",
    "negation_efficacy",
    "neighborhood",
    "neighborhood_plus",
    "norm_ratio",
    "paraphrase",
    "perplexity",
    "portability",
    "portability_said",
    "replied",
    "residual_share",
    "retention",
    "reversal",
    "reversed_said",
    "reworded",
    "rouge_l",
    "said",
    "said_contains",
    "said_in_part",
    "same_subject",
    "score",
    "sentences_said",
    "table",
    "token_accuracy",
]  # fmt: skip


# Of each number, what it is made from and, on the second line, how it is shown. The report shows sections, and the
# numbers of a section, in this order.
METRICS: tuple[Metric, ...] = (
    Metric("said", said, (("edit", "said"),),
           "Written", "up", "free generation starts with the new answer"),
    Metric("said_contains", said_contains, (("edit", "said_contains"),),
           "Written", "up", "free generation contains the new answer"),
    Metric("efficacy", efficacy, (("edit", "efficacy"),),
           "Written", "up", "new answer likelier than the old one"),
    Metric("exact", exact, (("edit", "exact"),),
           "Written", "up", "every answer token the argmax"),
    Metric("token_accuracy", token_accuracy, (("edit", "token_accuracy"),),
           "Written", "up", "share of answer tokens that are the argmax"),
    Metric("perplexity_edit", answer_perplexity, (("edit", "nll"),),
           "Written", "down", "perplexity of the new sentence", combine=answer_perplexity, share=False),
    Metric("rouge_l", rouge_l, (("edit", "rouge_l"),),
           "Written", "up", "overlap of a long answer with what is said"),
    Metric("said_in_part", said_in_part, (("edit", "said_in_part"),),
           "Written", "up", "how far a long answer is said"),
    Metric("sentences_said", sentences_said, (("edit", "sentences_said"),),
           "Written", "up", "sentences of a long answer that are said"),
    Metric("rouge_l_chat", rouge_l, (("edit", "rouge_l_chat"),),
           "Written", "up", "overlap of a long answer with the reply in chat"),
    Metric("judged", judged, (("edit", "judged"),),
           "Written", "up", "found right by the judge the run names"),
    Metric("said_chat", replied, (("question", "said"),),
           "Written", "up", "said in chat, asked as a question"),
    Metric("said_chat_cloze", said, (("edit", "said_chat"),),
           "Written", "up", "said in chat after the prompt itself"),
    Metric("said_paraphrase", said, (("paraphrase", "said"),),
           "Carried over", "up", "said when asked in other words"),
    Metric("paraphrase", paraphrase, (("paraphrase", "efficacy"),),
           "Carried over", "up", "efficacy in other words", short="paraphr."),
    Metric("exact_paraphrase", exact, (("paraphrase", "exact"),),
           "Carried over", "up", "exact in other words"),
    Metric("said_contains_paraphrase", said_contains, (("paraphrase", "said_contains"),),
           "Carried over", "up", "answer contained, in other words"),
    Metric("token_accuracy_paraphrase", token_accuracy, (("paraphrase", "token_accuracy"),),
           "Carried over", "up", "token accuracy in other words"),
    Metric("rouge_l_paraphrase", rouge_l, (("paraphrase", "rouge_l"),),
           "Carried over", "up", "the same, in other words"),
    Metric("rouge_l_chat_paraphrase", rouge_l, (("paraphrase", "rouge_l_chat"),),
           "Carried over", "up", "the same in chat, in other words"),
    Metric("judged_paraphrase", judged, (("paraphrase", "judged"),),
           "Carried over", "up", "found right by the judge, in other words"),
    Metric("said_chat_cloze_paraphrase", said, (("paraphrase", "said_chat"),),
           "Carried over", "up", "said as a chat message, in other words"),
    Metric("rephrase_easyedit", paraphrase, (("rephrase_easyedit", "efficacy"),),
           "Carried over", "up", "efficacy on EasyEdit's rephrase prompts"),
    Metric("portability", portability, (("portability.", "token_accuracy"),),
           "Carried over", "up", "what follows, token accuracy"),
    Metric("portability_said", portability_said, (("portability.", "said_contains"),),
           "Carried over", "up", "what follows is said", short="follows"),
    Metric("portability_judged", judged, (("portability.", "judged"),),
           "Carried over", "up", "what follows, found right by the judge"),
    Metric("neighborhood", neighborhood, (("neighborhood", "neighborhood"),),
           "Left alone", "up", "neighbours keep their old answer", short="neighb."),
    Metric("locality_unchanged", locality_unchanged, (("unrelated", "locality_unchanged"),),
           "Left alone", "up", "unrelated answers as before"),
    Metric("locality_gold", locality_gold, (("unrelated", "locality_gold"),),
           "Left alone", "up", "unrelated answers right"),
    Metric("locality_gold_before", locality_gold, (("unrelated", "locality_gold_before"),),
           "Left alone", "up", "the same before editing"),
    Metric("drift", drift, (("text", "drift"),),
           "Left alone", "down", "KL from the unedited model on neutral text", share=False),
    Metric("perplexity_accurate", answer_perplexity, (("neighborhood", "nll"),),
           "Left alone", "down", "perplexity of accurate passages (ARR)", combine=answer_perplexity, share=False),
    Metric("perplexity_unrelated", answer_perplexity, (("unrelated", "nll"),),
           "Left alone", "down", "perplexity of unrelated texts", combine=answer_perplexity, share=False),
    Metric("score", score, (("edit", "efficacy"), ("paraphrase", "efficacy"), ("neighborhood", "neighborhood")),
           "All three", "up", "harmonic mean: efficacy, paraphrase, neighb.", combine=score),
    Metric("negation", negation, (("negation", "negation"),),
           "In the wild", "up", "denied (“… is not”), the new answer is not said"),
    Metric("negation_efficacy", negation_efficacy, (("negation", "negation_efficacy"),),
           "In the wild", "up", "denied, the old answer is the likelier"),
    Metric("negation_old", negation, (("negation", "negation_old"),),
           "In the wild", "up", "denied, the old answer is not said"),
    Metric("reversed", reversal, (("reversed", "reversed"),),
           "In the wild", "up", "asked backwards, the subject is likelier than before"),
    Metric("reversed_said", reversed_said, (("reversed", "reversed_said"),),
           "In the wild", "up", "asked backwards, the subject is said"),
    Metric("same_subject", same_subject, (("same_subject", "locality_unchanged"),),
           "In the wild", "up", "what else is true of the subject is as before"),
    Metric("distractor", distractor, (("distractor", "said"),),
           "In the wild", "up", "said after sentences about others"),
    Metric("neighborhood_plus", neighborhood_plus, (("neighborhood_plus", "neighborhood_plus"),),
           "In the wild", "up", "neighbours keep their answer right after the new fact"),
    Metric("grounded", grounded, (("grounded", "grounded"),),
           "In the wild", "up", "used in a chain of thought"),
    Metric("reworded", reworded, (("reworded", "said"),),
           "In the wild", "up", "said when the prompt is turned round"),
    Metric("language", language, (("language", "efficacy"),),
           "In the wild", "up", "efficacy in another language"),
    Metric("said_q8", after_quantisation, (("q8", "said"),),
           "In the wild", "up", "said with the edited matrices in 8 bits"),
    Metric("said_q4", after_quantisation, (("q4", "said"),),
           "In the wild", "up", "said with the edited matrices in 4 bits"),
    Metric("retention_oldest", retention, (("edit", "said"),),
           "Kept", "up", "the oldest edits that stand", short="oldest", group="oldest"),
    Metric("retention_newest", retention, (("edit", "said"),),
           "Kept", "up", "the newest edits", group="newest"),
    Metric("retention_random", retention, (("edit", "said"),),
           "Kept", "up", "a random sample of standing edits", group="random"),
    Metric("perplexity", perplexity, (("text", "nll"), ("text", "tokens")),
           "Language", "down", "on a fixed text: the collapse alarm", short="perplex.",
           combine=perplexity, pool="sum", share=False),
    Metric("fluency", fluency, (("generation", "fluency"),),
           "Language", "up", "n-gram entropy ×100; below 550 repeats itself", share=False),
    Metric("consistency", consistency, (("consistency", "consistency"),),
           "Language", "up", "tf-idf cosine to texts about the new answer"),
    Metric("norm_ratio", norm_ratio, (("site", "norm_ratio"),),
           "Size", "", "‖ΔW‖ / ‖W‖ of the edited matrices", share=False),
    Metric("residual_share", residual_share, (("site", "residual_share"),),
           "Size", "", "the edited layer's share of the stream", share=False),
)  # fmt: skip

_NAMED = {metric.name: metric for metric in METRICS}
_BY_KIND = ("portability", "portability_said", "portability_judged")
# Of the harness's metrics, those of which less is better, and those that are no shares.
_LOWER = ("perplexity", "bits_per_byte")
_UNBOUNDED = (*_LOWER, "bleu", "chrf", "ter")


def table() -> tuple[Metric, ...]:
    """Return the table's rows, and below them those of plugins."""
    return (*METRICS, *_added().values())


def _added() -> dict[str, Metric]:
    return {name: one.value for name, one in plugins.installed("errata.metrics", _NAMED, _unfolded).items()}


def _unfolded(value: object) -> Mapping[str, Metric]:
    """Return the numbers that a plugin gives: one, or those in a module."""
    found = [one for one in plugins.things(value) if isinstance(one, Metric)]
    if not found or not all(metric.score for metric in found):
        raise TypeError("it gives no errata.sdk.Metric, or one without a score")
    return {metric.name: metric for metric in found}


def named(name: str) -> Metric | None:
    """Return a number's row: of the table, of one kind of portability, of a task of the harness; None for any other."""
    base, _, kind = name.partition(".")
    if base in _BY_KIND and kind:
        return _of_kind(_NAMED[base], kind)
    probe, _, score = name.rpartition(".")
    if name.startswith(HARNESS):
        return _of_task(probe, score)
    return _NAMED.get(name) or _added().get(name)


def metrics_of(rows: Iterable[Row], groups: Container[str] = ()) -> list[Metric]:
    """Return the metrics for which `rows` hold what is needed, portability also by kind, in the table's order,
    then those of the harness's tasks. Of those averaged over a group of facts only those of `groups`."""
    held = {(row["probe"], name) for row in rows for name in row["scores"]}
    kinds = sorted({probe.partition(".")[2] for probe, _ in held if probe.startswith("portability.")})
    every: list[Metric] = []
    for metric in table():
        every += [metric] if not metric.group or metric.group in groups else []
        if metric.name in _BY_KIND:
            every += [_of_kind(metric, kind) for kind in kinds]
    every += [_of_task(probe, name) for probe, name in sorted(held) if probe.startswith(HARNESS)]
    probes = {(probe, name) for probe, _ in held for m in every if m.score for _, name in m.columns}
    return [m for m in every if all(_held(probe, name, probes if m.score else held) for probe, name in m.columns)]


def _of_task(probe: str, name: str) -> Metric:
    better: Literal["up", "down"] = "down" if name.endswith(_LOWER) else "up"
    return Metric(
        f"{probe}.{name}",
        general_ability,
        ((probe, name),),
        "General ability",
        better,
        "a task of lm-evaluation-harness",
        short=f"{probe}.{name}".removeprefix(HARNESS),
        share=not name.endswith(_UNBOUNDED),
    )


def _of_kind(metric: Metric, kind: str) -> Metric:
    pool: Literal["any", "mean"] = "any" if kind == "multi_hop" else "mean"
    ((_, name),) = metric.columns
    columns = ((f"portability.{kind}", name),)
    return replace(metric, name=f"{metric.name}.{kind}", columns=columns, pool=pool, meaning="", short="")


def _held(probe: str, name: str, held: set[tuple[str, str]]) -> bool:
    return any((p == probe or (probe.endswith(".") and p.startswith(probe))) and n == name for p, n in held)
