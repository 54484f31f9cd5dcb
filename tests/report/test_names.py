"""The page and the terminal have what they say of a number from the table of metrics.

pytest tests/report/test_names.py
"""

from __future__ import annotations

from errata.cli.tables import bench
from errata.evaluate.metrics import METRICS, named
from errata.report import plots, read, rows, tables, verdict
from errata.report.names import is_share, meaning, ordered, section, sign

PICKED = {
    "plots": (*plots.CURVES, *plots.RANGES),
    "tables": tables.COMPARED,
    "verdict": verdict.LEADING,
    "rows": rows.FLAGS,
    "read": tuple(read.ALIASES.values()),
    "terminal": bench.FIRST,
}


def test_report_and_terminal_know_no_number_that_the_table_does_not() -> None:
    known = {metric.name for metric in METRICS}
    for place, names in PICKED.items():
        assert set(names) <= known, place
    assert {metric.name for metric in METRICS if metric.short} <= set(bench.FIRST), "a heading that nothing shows"


def test_the_page_shows_the_table_in_its_order() -> None:
    names = [metric.name for metric in METRICS]
    assert ordered(reversed(names)) == names, "the rows of a section stand together"
    for metric in METRICS:
        assert (section(metric.name), meaning(metric.name)) == (metric.section, metric.meaning)
        assert sign(metric.name) == {"up": 1, "down": -1, "": 0}[metric.better]
        assert metric.meaning
        assert metric.share == is_share(metric.name)


def test_kinds_tasks_and_strangers_have_their_row_too() -> None:
    for name in ("portability.alias", "portability_said.multi_hop", "portability_judged.inverse"):
        assert (section(name), sign(name), is_share(name)) == ("Carried over", 1, True)
    assert (section("harness.mmlu.acc"), sign("harness.mmlu.acc"), is_share("harness.mmlu.acc")) == (
        "General ability", 1, True,
    )  # fmt: skip
    assert (sign("harness.wiki.word_perplexity"), is_share("harness.wiki.word_perplexity")) == (-1, False)
    assert (sign("harness.wmt.bleu"), is_share("harness.wmt.bleu")) == (1, False)
    for name in ("something_new", "said.alias", "retention_middle", ""):
        assert named(name) is None
        assert (section(name), meaning(name), sign(name), is_share(name)) == ("Other", "", 0, False)


def test_a_row_found_by_name_is_called_so() -> None:
    for name in (
        "said",
        "retention_oldest",
        "portability.alias",
        "harness.mmlu.acc",
        "harness.gsm8k.exact_match.strict",
    ):
        found = named(name)
        assert found is not None
        assert found.name == name
