"""Rows in, numbers out: the mean over facts, its interval, what is counted and what is an error.

pytest tests/evaluate/test_summary.py
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errata.errors import BadFile, ErrataError
from errata.evaluate.summary import Estimate, at, compare, dump_row, estimate, known_before, read_rows, summarize


def row(case: str, probe: str = "edit", **scores: float | None) -> dict[str, Any]:
    return {"case": case, "probe": probe, "scores": scores}


def test_the_mean_is_over_facts_not_prompts() -> None:
    rows = [row("a", "paraphrase", efficacy=1.0)] * 9 + [row("b", "paraphrase", efficacy=0.0)]
    assert estimate(rows, "paraphrase").mean == 0.5


def test_the_interval_of_independent_facts_is_the_textbook_one() -> None:
    rng = random.Random(0)
    values = [float(rng.random() < 0.7) for _ in range(400)]
    found = estimate([row(str(i), efficacy=v) for i, v in enumerate(values)], "efficacy")
    assert found.mean == pytest.approx(np.mean(values))
    assert found.half_width == pytest.approx(1.96 * np.std(values) / math.sqrt(400), rel=0.08)
    assert (found.n, found.missing) == (400, 0)


def test_asking_the_same_fact_again_does_not_make_it_surer() -> None:
    rng = random.Random(0)
    once = [row(str(i), efficacy=float(rng.random() < 0.5)) for i in range(100)]
    assert estimate(once * 10, "efficacy") == estimate(once, "efficacy")


def test_order_does_not_matter_and_the_seed_does() -> None:
    rows = [row(str(i), token_accuracy=(i * 7 % 10) / 10) for i in range(50)]
    turned = rows[::-1]
    assert estimate(rows, "token_accuracy") == estimate(turned, "token_accuracy")
    other = estimate(rows, "token_accuracy", seed=1)
    assert other.mean == estimate(rows, "token_accuracy").mean
    assert other.half_width != estimate(rows, "token_accuracy").half_width


def test_what_was_not_scored_is_counted() -> None:
    rows = [row("a", efficacy=1.0), row("b", efficacy=None), row("c", efficacy=0.0), row("c", efficacy=None)]
    found = estimate(rows, "efficacy")
    assert (found.mean, found.n, found.missing) == (0.5, 2, 2)
    assert str(found).endswith("(n = 2, 2 rows not scored)")


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ErrataError, match="none of 2 rows was scored"):
        estimate([row("a", efficacy=None), row("b", efficacy=None)], "efficacy")
    with pytest.raises(ErrataError, match="hold nothing"):
        estimate([], "efficacy")
    with pytest.raises(ErrataError, match="Did you mean efficacy"):
        estimate([row("a", efficacy=1.0)], "eficacy")


def test_a_table_shows_what_could_not_be_scored() -> None:
    found = summarize([row("a", efficacy=None, exact=1.0), row("b", efficacy=None, exact=0.0)])
    assert list(found) == ["efficacy", "exact"]
    assert str(found["efficacy"]) == "not scored (2 rows)"
    assert found["efficacy"].to_dict() == {"mean": None, "half_width": None, "n": 0, "missing": 2}


def test_one_fact_has_no_interval() -> None:
    found = estimate([row("a", efficacy=1.0)], "efficacy")
    assert math.isnan(found.half_width)
    assert str(found) == "1.00 (n = 1)"


def test_score_is_the_harmonic_mean_of_the_three_means() -> None:
    rows = []
    for i in range(20):
        rows += [row(str(i), "edit", efficacy=1.0), row(str(i), "paraphrase", efficacy=float(i % 2))]
        rows += [row(str(i), "neighborhood", neighborhood=float(i % 4 == 0))] * 10
    found = estimate(rows, "score")
    assert found.mean == pytest.approx(3 / (1 + 2 + 4))
    assert 0 < found.half_width < 0.3


def test_score_counts_facts_without_paraphrases() -> None:
    rows = [row("a", efficacy=1.0), row("b", efficacy=1.0), row("a", "paraphrase", efficacy=1.0)]
    rows += [row("b", "neighborhood", neighborhood=1.0)]
    assert estimate(rows, "score").mean == 1
    assert estimate(rows, "score").n == 2


def test_what_a_fact_was_not_asked_does_not_widen_the_interval() -> None:
    rows = [row(str(i), efficacy=1.0) for i in range(20)]
    rows += [row(str(i), "paraphrase", efficacy=1.0) for i in range(10)]
    rows += [row(str(i), "neighborhood", neighborhood=1.0) for i in range(5, 20)]
    found = estimate(rows, "score")
    assert (found.mean, found.half_width, found.n) == (1, 0, 20)


def test_any_of_several_questions_counts_for_multi_hop() -> None:
    rows = [row("a", "portability.multi_hop", token_accuracy=v, said_contains=v) for v in (0.0, 1.0, 0.0)]
    rows += [row("b", "portability.multi_hop", token_accuracy=0.0, said_contains=0.0)] * 3
    assert estimate(rows, "portability_said.multi_hop").mean == 0.5
    assert estimate(rows, "portability").mean == pytest.approx(1 / 6)  # all kinds together: a plain mean


def test_perplexity_is_weighted_by_tokens() -> None:
    rows = [row("text-0", "text", nll=2 * math.log(4), tokens=2), row("text-1", "text", nll=2 * math.log(2), tokens=4)]
    assert estimate(rows, "perplexity").mean == pytest.approx(2)
    collapsed = estimate([*rows, row("text-2", "text", nll=None, tokens=None)], "perplexity")
    assert collapsed.missing == 1


def test_a_group_of_facts_keeps_texts() -> None:
    rows = [row(c, efficacy=float(c == "a")) for c in "abcd"]
    rows += [row(f"text-{i}", "text", nll=1.0, tokens=1) for i in range(2)]
    found = summarize(rows, facts=["a", "b"])
    assert (found["efficacy"].mean, found["efficacy"].n, found["perplexity"].n) == (0.5, 2, 2)


def test_a_paired_comparison_is_sharper_than_two_intervals() -> None:
    rng = random.Random(1)
    hard = [rng.random() for _ in range(200)]
    first = [row(str(i), token_accuracy=h) for i, h in enumerate(hard)]
    second = [row(str(i), token_accuracy=h - 0.02 * rng.random()) for i, h in enumerate(hard)]
    found = compare(first, [*second, row("only here", token_accuracy=1.0)], "token_accuracy")
    assert found.difference.mean == pytest.approx(0.01, abs=0.002)
    assert found.difference.half_width < 0.002 < estimate(first, "token_accuracy").half_width
    assert (found.difference.n, found.only_first, found.only_second) == (200, 0, 1)
    assert found.first - found.second == pytest.approx(found.difference.mean)
    assert compare(second, first, "token_accuracy").difference.mean == pytest.approx(-found.difference.mean)


def test_a_comparison_needs_common_facts() -> None:
    with pytest.raises(ErrataError, match="no scored fact in common"):
        compare([row("a", exact=1.0)], [row("b", exact=1.0)], "exact")
    half = [row("a", efficacy=1.0), row("b", "paraphrase", efficacy=1.0), row("b", "neighborhood", neighborhood=1.0)]
    with pytest.raises(ErrataError, match="no scored fact in common"):
        compare(half, [row("a", efficacy=1.0), *half[1:2], row("c", "neighborhood", neighborhood=1.0)], "score")


def test_known_before() -> None:
    rows = [
        row("a", said_true=1.0),
        row("b", said_true=0.0),
        row("c", said_true=None),
        row("d", "paraphrase", said=1.0),
    ]
    rows += [row("e", said_true=1.0), row("e", said_true=0.0)]  # a chain is known when all of it is
    assert known_before(rows) == {"a": True, "b": False, "e": False}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (Estimate(0.94, 0.0199, 200), "0.94 ± 0.02 (n = 200)"),
        (Estimate(612.34, 3.21, 50), "612.3 ± 3.2 (n = 50)"),
        (Estimate(1234567.0, 1000.0, 5), "1.23e+06 ± 1e+03 (n = 5)"),
        (Estimate(-0.01, 0.002, 9), "-0.01 ± 0.00 (n = 9)"),
    ],
)
def test_a_number_is_printed_with_its_error_and_count(given: Estimate, shown: str) -> None:
    assert str(given) == shown


def test_rows_are_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    one, other = {"b": 1, "a": {"d": None, "c": "ä"}}, {"a": {"c": "ä", "d": None}, "b": 1}
    assert dump_row(one) == dump_row(other) == '{"a": {"c": "ä", "d": null}, "b": 1}'
    with pytest.raises(ValueError, match="Out of range"):
        dump_row({"a": math.nan})
    file = tmp_path / "rows.jsonl"
    file.write_text(dump_row(one) + "\n" + dump_row(other) + "\n", encoding="utf-8")
    assert read_rows(file) == [one, other]
    file.write_text(dump_row(one) + "\n" + dump_row(other)[:9], encoding="utf-8")
    with pytest.raises(BadFile, match="line 2"):
        read_rows(file)
    with pytest.raises(BadFile, match="cannot read"):
        read_rows(tmp_path / "none.jsonl")


def test_at_picks_rows_by_their_fields() -> None:
    rows = [{"checkpoint": 1, "method": "rome"}, {"checkpoint": 10, "method": "rome"}, {"checkpoint": 10}]
    assert at(rows, checkpoint=10, method="rome") == rows[1:2]


def test_summaries_do_not_wait_for_torch() -> None:
    code = (
        "import errata.evaluate.summary, errata.data.cases, errata.evaluate.metrics, sys; "
        "sys.exit('torch' in sys.modules)"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(source)}, check=False)
    assert done.returncode == 0


def test_estimates_are_json() -> None:
    found = summarize([row(str(i), efficacy=float(i % 2)) for i in range(10)])
    text = json.dumps({name: e.to_dict() for name, e in found.items()}, allow_nan=False)
    assert json.loads(text)["efficacy"]["n"] == 10
