"""Tables fit the terminal they are drawn on.

pytest tests/cli/test_tables.py
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from errata.cli.tables import bench as tables
from errata.cli.tables import book, editing
from errata.data.cases import KNOWN


def drawn(view: object, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(view)
    return [line.rstrip() for line in file.getvalue().split("\n")]


def summary(method: str, points: dict[int, dict[str, float]], **more: Any) -> dict[str, Any]:
    """Return a summary as `--json` prints it."""
    checkpoints = [
        {
            "edits": edits,
            "metrics": {name: {"mean": mean, "half_width": 0.02, "n": 300} for name, mean in means.items()},
        }
        for edits, means in points.items()
    ]
    return {"method": method, "checkpoints": checkpoints, "refused": 0, "stopped": None, **more}


BEFORE = {"efficacy": 0.2, "said": 0.0, "neighborhood": 0.8, "perplexity": 21.5, "harness.mmlu.acc": 0.6}
AFTER = {"efficacy": 0.9, "said": 0.4, "paraphrase": 0.7, "neighborhood": 0.5, "perplexity": 4321.0}
RUNS = [
    summary("memit", {0: BEFORE, 10: {"said": 0.99}, 300: {**AFTER, "harness.mmlu.acc": 0.25}}),
    summary("ft", {0: BEFORE, 10: AFTER}, stopped="perplexity 4321 at 10 edits", refused=2),
]


def test_a_line_a_method_after_its_last_edit_and_the_unedited_model_first() -> None:
    lines = drawn(tables.bench(RUNS), 200)
    heads = "edits said efficacy paraphr. neighb. perplex. mmlu.acc"
    assert next(line for line in lines if "said" in line).split() == heads.split()
    found = [line.split() for line in lines if "±0.02" in line]
    assert found[0] == ["unedited", "0", "0.00±0.02", "0.20±0.02", "–", "0.80±0.02", "21.50±0.02", "0.60±0.02"]
    assert found[1] == ["memit", "300", "0.40±0.02", "0.90±0.02", "0.70±0.02", "0.50±0.02", "4321±0", "0.25±0.02"]
    assert found[2][:4] == ["ft", "(stopped)", "10", "0.40±0.02"]
    assert len(found) == 3
    assert "n = 300 facts. ft refused 2 cases." in " ".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_what_does_not_fit_is_left_out_whole_and_named(width: int) -> None:
    lines = drawn(tables.bench(RUNS), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for head in ("said", "efficacy", "paraphr.", "neighb.", "perplex.", "mmlu.acc"):
        assert head in text, "every heading stands whole, in the table or below it"
    assert "Not shown here: " in text or width >= 80
    assert len([line for line in lines if "±0.02" in line]) == 3, "no line is broken in two"


def test_benchmarks_are_named_whole() -> None:
    rows = [
        {"name": k.name, "title": k.title, "files": [], "records": 0, "where": k.where, "licence": k.licence}
        for k in KNOWN
    ]
    rows[0] |= {"files": ["/data/counterfact.json"], "records": 21919}
    lines = drawn(tables.data(rows), 80)
    assert max(map(len, lines)) <= 80
    for known in KNOWN:
        assert any(line.split()[:1] == [known.name] for line in lines)
    assert "21,919 records" in " ".join(lines)
    assert any(line.endswith("/data/counterfact.json") for line in lines)


def test_of_a_document_a_table_shows_the_beginning_and_the_end() -> None:
    document = f"First words {'and more ' * 200}last words"
    fact = {"prompt": document, "target": "Civil\nRights", "before": "Other", "after": "Civil Rights", "said": True}
    shown = {
        "id": "0" * 16,
        "seq": 1,
        "method": "melo",
        "facts": [fact],
        "seconds": {"solve": 1.0},
        "created_at": "2026-11-20T10:00",
    }
    shown |= {"author": "", "reason": "", "stands": True, "forgotten": [], "tags": [], "all": True}
    for view in (book.log, editing.edit):
        text = "\n".join(drawn(view([shown]), 400))
        assert "First words" in text
        assert "last words" in text
        assert "Civil Rights" in text
        assert len(text) < 1000
    assert document in "\n".join(drawn(book.show(shown), 5000))


def test_what_critics_ask_has_a_line_a_number() -> None:
    asked = [summary("memit", {0: {"said": 0.0, "negation": 1.0}, 9: {"said": 1.0, "negation": 0.25, "said_q4": 0.5}})]
    lines = [line.split() for line in drawn(tables.bench(asked), 80)]
    assert ["negation", "1.00±0.02", "0.25±0.02"] in lines
    assert ["said", "q4", "–", "0.50±0.02"] in lines
    assert not any("wild" in line for line in drawn(tables.bench(RUNS), 80))
