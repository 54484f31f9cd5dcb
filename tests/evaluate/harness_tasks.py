"""Tasks for lm-evaluation-harness about the primer's world: written to files when a test runs, nothing is fetched."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from errata.primer.world import Triple, World

COUNT = 24


def triples() -> list[Triple]:
    """Return the facts that are asked, those of countries first: "The capital of France is" among them."""
    return list(World().triples[:COUNT])


def write(directory: Path, **more: Any) -> Path:
    """Write four tasks and a group: a choice among answers, an answer to be said, the rest of a text, a whole text."""
    directory.mkdir(parents=True, exist_ok=True)
    answers: dict[str, set[str]] = defaultdict(set)
    for triple in World().triples:
        answers[triple.relation].add(triple.answer)
    rows = []
    for triple in triples():
        others = sorted(answers[triple.relation] - {triple.answer})[:3]
        choices = sorted([triple.answer, *others])
        row = {"question": triple.prompts()[0], "answer": triple.answer, "choices": choices}
        rows.append({**row, "right": choices.index(triple.answer)})
    data = directory / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    common |= {"doc_to_text": "{{question}}", "metadata": {"version": 1}, **more}
    _task(
        directory, "primer_choice", common, output_type="multiple_choice", doc_to_choice="{{choices}}",
        doc_to_target="{{right}}", metric_list=[_metric("acc"), _metric("acc_norm")],
    )  # fmt: skip
    strip = {
        "name": "stripped",
        "filter": [{"function": "regex", "regex_pattern": r"(\S.*\S)"}, {"function": "take_first"}],
    }
    _task(
        directory, "primer_say", common, output_type="generate_until", doc_to_target="{{answer}}",
        generation_kwargs={"until": [".", "\n\n"], "max_gen_toks": 12, "do_sample": False}, filter_list=[strip],
        metric_list=[_metric("exact_match")],
    )  # fmt: skip
    _task(
        directory, "primer_next", common, output_type="loglikelihood", doc_to_target=" {{answer}}",
        metric_list=[_metric("acc"), {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    )  # fmt: skip
    _task(
        directory, "primer_read", {**common, "doc_to_text": ""}, output_type="loglikelihood_rolling",
        doc_to_target="{{question}} {{answer}}",
        metric_list=[{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    )  # fmt: skip
    group = {"group": "primer_facts", "task": ["primer_choice", "primer_next"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]  # type: ignore[list-item]
    (directory / "group.yaml").write_text(json.dumps(group), encoding="utf-8")  # JSON is YAML
    return directory


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _task(directory: Path, name: str, common: dict[str, Any], **fields: Any) -> None:
    (directory / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **fields}), encoding="utf-8")
