"""The table of metrics: what each number is called, which function defines it, and which rows it is made from.

Adding a metric: a function in one of these files that gives a score, one line in `errata.evaluate.probes` that puts
it into the row, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

from errata.evaluate.metrics.ability import general_ability
from errata.evaluate.metrics.base import Array, Metric, Row, Score
from errata.evaluate.metrics.collapse import norm_ratio, perplexity, residual_share
from errata.evaluate.metrics.fluency import TfIdf, consistency, fluency
from errata.evaluate.metrics.locality import drift, locality_gold, locality_unchanged
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
from errata.evaluate.metrics.speech import judged, said, said_contains

__all__ = [
    "METRICS", "SENTENCE", "Array", "Metric", "Row", "Score", "TfIdf", "answer_perplexity", "consistency",
    "drift", "efficacy", "exact", "fluency", "general_ability", "judged", "locality_gold", "locality_unchanged", "lp",
    "metrics_of", "neighborhood", "norm_ratio", "paraphrase", "perplexity", "portability",
    "portability_said", "residual_share", "retention", "said", "said_contains", "score", "token_accuracy",
]  # fmt: skip


def _spoken(name: str, about: Callable[..., Any]) -> tuple[Metric, Metric]:
    """Return a metric on the edit prompt and the same on paraphrases."""
    return Metric(name, about, (("edit", name),)), Metric(f"{name}_paraphrase", about, (("paraphrase", name),))


METRICS: tuple[Metric, ...] = (
    Metric("efficacy", efficacy, (("edit", "efficacy"),)),
    Metric("paraphrase", paraphrase, (("paraphrase", "efficacy"),)),
    Metric("rephrase_easyedit", paraphrase, (("rephrase_easyedit", "efficacy"),)),
    Metric("neighborhood", neighborhood, (("neighborhood", "neighborhood"),)),
    Metric("score", score, (("edit", "efficacy"), ("paraphrase", "efficacy"), ("neighborhood", "neighborhood")), score),
    *_spoken("exact", exact),
    *_spoken("token_accuracy", token_accuracy),
    *_spoken("said", said),
    *_spoken("said_contains", said_contains),
    *_spoken("said_chat", said),
    *_spoken("judged", judged),
    Metric("locality_unchanged", locality_unchanged, (("unrelated", "locality_unchanged"),)),
    Metric("locality_gold", locality_gold, (("unrelated", "locality_gold"),)),
    Metric("locality_gold_before", locality_gold, (("unrelated", "locality_gold_before"),)),
    Metric("portability", portability, (("portability.", "token_accuracy"),)),
    Metric("portability_said", portability_said, (("portability.", "said_contains"),)),
    Metric("portability_judged", judged, (("portability.", "judged"),)),
    Metric("drift", drift, (("text", "drift"),)),
    Metric("perplexity", perplexity, (("text", "nll"), ("text", "tokens")), perplexity, "sum"),
    Metric("perplexity_edit", answer_perplexity, (("edit", "nll"),), answer_perplexity),
    Metric("perplexity_accurate", answer_perplexity, (("neighborhood", "nll"),), answer_perplexity),
    Metric("perplexity_unrelated", answer_perplexity, (("unrelated", "nll"),), answer_perplexity),
    Metric("fluency", fluency, (("generation", "fluency"),)),
    Metric("consistency", consistency, (("consistency", "consistency"),)),
    Metric("norm_ratio", norm_ratio, (("site", "norm_ratio"),)),
    Metric("residual_share", residual_share, (("site", "residual_share"),)),
)

_BY_KIND = ("portability", "portability_said", "portability_judged")


def metrics_of(rows: Iterable[Row]) -> list[Metric]:
    """Return the metrics for which `rows` hold what is needed, portability also by kind, in the table's order,
    then those of the harness's tasks."""
    held = {(row["probe"], name) for row in rows for name in row["scores"]}
    kinds = sorted({probe.partition(".")[2] for probe, _ in held if probe.startswith("portability.")})
    every: list[Metric] = []
    for metric in METRICS:
        every.append(metric)
        if metric.name in _BY_KIND:
            every += [_of_kind(metric, kind) for kind in kinds]
    every += [_of_task(probe, name) for probe, name in sorted(held) if probe.startswith("harness.")]
    return [m for m in every if all(_held(probe, name, held) for probe, name in m.columns)]


def _of_task(probe: str, name: str) -> Metric:
    return Metric(f"{probe}.{name}", general_ability, ((probe, name),))


def _of_kind(metric: Metric, kind: str) -> Metric:
    pool: Literal["any", "mean"] = "any" if kind == "multi_hop" else "mean"
    ((_, name),) = metric.columns
    return replace(metric, name=f"{metric.name}.{kind}", columns=((f"portability.{kind}", name),), pool=pool)


def _held(probe: str, name: str, held: set[tuple[str, str]]) -> bool:
    return any((p == probe or (probe.endswith(".") and p.startswith(probe))) and n == name for p, n in held)
