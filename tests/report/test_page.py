"""The page as a reader's browser gets it: what it says, that data never becomes markup, that it always stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from errata import report
from errata.errors import BadFile
from tests.report import fabricated

SVG = "{http://www.w3.org/2000/svg}"
METHODS = tuple(fabricated.STORIES)


def tree(page: str) -> ElementTree.Element:
    """Return the page read as XML, which is stricter than any browser."""
    assert page.startswith("<!doctype html>\n")
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n"))


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def rows_of(page: str, table: str) -> dict[str, list[str]]:
    """Return the rows of the first table of that class by what heads them."""
    found = next(e for e in tree(page).iter("table") if (e.get("class") or "").split()[0] == table)
    lines = [[words(cell) for cell in row] for row in found.iter("tr")]
    return {line[0]: line[1:] for line in lines if line}


def change(directory: Path, name: str, **values: Any) -> None:
    """Change top-level entries of one of a run's JSON files."""
    path = directory / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Four methods in both modes; one was stopped."""
    runs = [fabricated.run(tmp_path, m, stop_after=50 if m == "ft" else None) for m in METHODS[:4]]
    return runs + [fabricated.run(tmp_path, m, independent=True) for m in METHODS[:4]]


def test_the_headline_says_who_held_and_where_the_others_broke(four: list[Path]) -> None:
    page = tree(report.build(four))
    title = next(page.iter("h1"))
    expected = "memit holds to 300 edits; rome broke between 10 and 50 edits; ft broke between 1 and 10 edits."
    assert words(title) == expected == words(next(page.iter("title")))
    deck = next(words(p) for p in page.iter("p") if p.get("class") == "deck")
    assert deck.startswith("One edit at a time, rome says 97 % of its facts, ft 96 % and memit 96 %.")
    assert "none" not in deck, "a control that writes nothing is no news"
    assert "at 50 edits rome has efficacy 0.91 and says 0.14 of its facts" in deck


def test_the_strip_has_a_row_for_each_method_best_first(four: list[Path]) -> None:
    strip = rows_of(report.build(four), "strip")
    assert list(strip) == ["method", "memit", "rome", "ft", "none"]
    assert strip["method"] == ["1", "10", "50", "100", "300", "verdict"]
    assert strip["rome"] == ["0.97", "0.82", "✕ 0.14", "✕ 0.03", "✕ 0.00", "broke between 10 and 50 editssaid 0.14"]
    assert strip["ft"][3:5] == ["stopped", "stopped"]
    assert "stopped: perplexity 1234 at 50 edits" in strip["ft"][5]
    assert strip["none"][5].startswith("writes nothing")


def test_numbers_come_with_their_error_and_their_count(four: list[Path]) -> None:
    page = report.build(four)
    numbers = rows_of(page, "numbers")
    # The first table is at 50 edits, which all methods reached: unedited, memit, rome, ft, none, facts.
    said = next(cells for name, cells in numbers.items() if name.startswith("said ↑"))
    assert said == ["0.02 ± 0.02", "0.96 ± 0.06", "0.14 ± 0.10", "0.02 ± 0.04", "0.02 ± 0.04", "50"]
    assert numbers["cases refused"] == ["", "0", "2", "0", "0", ""]
    assert "After 50 edits, the last checkpoint that every method reached." in words(tree(page))
    folded = [words(e) for e in tree(page).iter("summary")]
    assert folded == ["After 1 edit", "After 10 edits", "After 100 edits", "After 300 edits"]


def test_bold_is_only_what_is_better_beyond_the_error(four: list[Path]) -> None:
    table = next(e for e in tree(report.build(four)).iter("table") if e.get("class") == "numbers")
    bold = {words(row[0]).split(" ↑")[0]: [words(b) for b in row.iter("b")] for row in table.iter("tr") if len(row) > 2}
    assert bold["said"] == ["0.96"]
    assert bold["neighborhood"] == [], "the control does not compete, and the others are too close"


def test_every_kind_of_plot_is_there_and_is_named_at_its_lines(four: list[Path]) -> None:
    page = tree(report.build(four[:4]))
    figures = {words(next(figure.iter("b"))): figure for figure in page.iter("figure")}
    curves = {"said", "retention oldest", "neighborhood", "perplexity", "efficacy", "said paraphrase"}
    assert curves | {"Seconds per edit", "Peak memory", "Bytes stored per edit", "memit", "rome"} <= set(figures)
    assert any(title.startswith("rephrase easyedit ● against paraphrase ○") for title in figures)
    drawn = [words(t) for t in next(f for t, f in figures.items() if t == "perplexity").iter(f"{SVG}text")]
    assert {"rome", "memit", "ft", "none", "unedited", "edits/out", "edits/in", "192 = out"} <= set(drawn)
    for svg in page.iter(f"{SVG}svg"):
        assert svg.get("viewBox")
        assert "nan" not in ElementTree.tostring(svg, "unicode").split("<title")[0].lower()


def test_what_the_model_said_is_text_and_never_markup(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script> & \x00\x1b[31m \ud800 </style>'
    directory = fabricated.run(tmp_path, "rome", about={"command": f"errata {bad}", "model": bad})
    row = {"case": bad, "probe": "edit", "prompt": bad, "expected": bad, "said": bad, "scores": {"said": 0.0}}
    text = json.dumps({**row, "checkpoint": 300, "lp_new": -20, "lp_true": 0})
    (directory / "rows.jsonl").write_text(text + "\n")
    change(directory, "summary.json", stopped=bad, method=bad)
    change(directory, "run.json", config={bad: bad}, options={}, fingerprint=bad)
    page = report.build([directory])
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp;" in page
    assert words(tree(page)).count("<script>") >= 8
    report.write([directory], tmp_path / "report.html")


@pytest.mark.parametrize("count", range(1, 9))
def test_one_to_eight_methods(tmp_path: Path, count: int) -> None:
    runs = [fabricated.run(tmp_path, m) for m in METHODS[:count]]
    page = tree(report.build(runs))
    lanes = next(e for e in page.iter("table") if e.get("class") == "strip").find("tbody")
    assert lanes is not None
    assert len(lanes) == count
    for svg in page.iter(f"{SVG}svg"):
        width, height = (float(v) for v in (svg.get("viewBox") or "").split()[2:])
        for text in svg.iter(f"{SVG}text"):
            assert 0 <= float(text.get("x") or 0) <= width
            assert 0 <= float(text.get("y") or 0) <= height


def test_one_checkpoint_is_compared_side_by_side(tmp_path: Path) -> None:
    page = report.build([fabricated.run(tmp_path, m, checkpoints=(100,)) for m in ("rome", "memit")])
    assert "Side by side" in page
    assert "Over the number of edits" not in page
    assert "memit holds to 100 edits; rome never held." in page


def test_nothing_but_the_unedited_model_is_no_error(tmp_path: Path) -> None:
    page = report.build([fabricated.run(tmp_path, "rome", checkpoints=())])
    assert "Nothing has been measured yet." in page
    tree(page)


def test_metrics_may_be_missing_or_not_numbers(tmp_path: Path) -> None:
    runs = [fabricated.run(tmp_path, m) for m in ("rome", "memit")]
    summary = json.loads((runs[0] / "summary.json").read_text())
    for checkpoint in summary["checkpoints"]:
        kept = {"efficacy": checkpoint["metrics"]["efficacy"], "said": {"mean": None, "half_width": None, "n": 0}}
        checkpoint["metrics"] = {**kept, "perplexity": float("nan"), "something_new": {"mean": 12.3456, "n": 3}}
    (runs[0] / "summary.json").write_text(json.dumps(summary))  # with the word NaN, which is no JSON but is written
    page = report.build(runs)
    numbers = rows_of(page, "numbers")
    said = next(cells for name, cells in numbers.items() if name.startswith("said ↑"))
    assert sorted(said[1:3]) == ["0.88 ± 0.04", "–"]
    assert "12.3" in numbers["something new"]
    assert "nan" not in words(tree(page)).lower().replace("nano", "")


def test_tasks_of_the_harness_and_the_judge_stand_beside_the_other_numbers(tmp_path: Path) -> None:
    run = fabricated.run(tmp_path, "rome")
    judge = {"name": "sage at 127.0.0.1", "prompt": "Is {said} <right>?"}
    change(run, "run.json", harness=["mmlu", "tasks/"], judge=judge)
    summary = json.loads((run / "summary.json").read_text())
    for point, acc in zip((summary["checkpoints"][0], summary["checkpoints"][-1]), (0.61, 0.27), strict=True):
        point["metrics"]["harness.mmlu.acc"] = {"mean": acc, "half_width": 0.01, "n": 14042}
        point["metrics"]["harness.wiki.word_perplexity"] = {"mean": 12.3, "half_width": None, "n": 1}
    (run / "summary.json").write_text(json.dumps(summary))
    page = report.build([run])
    numbers = rows_of(page, "numbers")
    assert "General ability" in numbers
    mmlu = next(cells for name, cells in numbers.items() if name.startswith("mmlu: acc ↑"))
    assert mmlu[:3] == ["0.61 ± 0.01", "0.27 ± 0.01", "14,042"]
    assert any(name.startswith("wiki: word perplexity ↓") for name in numbers)
    assert "mmlu, tasks/" in page
    assert "sage at 127.0.0.1" in page
    assert "Is {said} &lt;right&gt;?" in page


def test_a_run_without_rows_has_a_page_and_a_torn_row_is_counted(tmp_path: Path) -> None:
    whole, bare = fabricated.run(tmp_path, "rome"), fabricated.run(tmp_path, "memit")
    (bare / "rows.jsonl").unlink()
    with (whole / "rows.jsonl").open("a") as rows:
        rows.write('{"case": "cf-1", "probe": "edi')
    numbers = rows_of(report.build([whole, bare]), "numbers")
    assert numbers["torn rows"] == ["", "0", "1", ""]


def test_methods_with_rows_of_the_same_cases_are_compared_fact_by_fact(tmp_path: Path) -> None:
    runs = [fabricated.run(tmp_path, m) for m in ("memit", "rome")]
    for directory, right in zip(runs, (range(30), range(10)), strict=True):
        common = {"probe": "edit", "checkpoint": 300}
        rows = [{**common, "case": f"c{i}", "scores": {"said": float(i in right)}} for i in range(30)]
        (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = next(e for e in tree(report.build(runs)).iter("table") if e.get("class") == "numbers pairs")
    assert [words(cell) for cell in list(pairs.iter("tr"))[1]] == ["− rome", "+0.67 ± 0.18", "30"]


def test_runs_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    rates = {"a": 1, "b": 2}
    runs = [fabricated.run(tmp_path / name, "rome", about={"options": {"lr": lr}}) for name, lr in rates.items()]
    strip = rows_of(report.build(runs), "strip")
    assert {"rome lr=1", "rome lr=2"} <= set(strip)


def test_twins_are_told_apart_by_where_they_are(tmp_path: Path) -> None:
    page = report.build([fabricated.run(tmp_path / place, "rome") for place in ("monday", "tuesday")])
    assert "rome (monday/rome-sequential)" in page
    assert "rome (tuesday/rome-sequential)" in page


def test_models_are_not_compared_with_one_another(tmp_path: Path) -> None:
    one = fabricated.run(tmp_path / "a", "rome")
    other = fabricated.run(tmp_path / "b", "memit", about={"model": "gpt2", "fingerprint": "77"})
    heads = [words(e) for e in tree(report.build([one, other])).iter("h2")]
    assert heads[0] == "All edits in one model, cf-llama-20m · counterfact:300"
    assert heads[1] == "All edits in one model, gpt2 · counterfact:300"


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_directory_that_is_no_run_is_named(tmp_path: Path, name: str) -> None:
    directory = fabricated.run(tmp_path, "rome")
    (directory / name).write_text("{")
    with pytest.raises(BadFile, match=name):
        report.build([directory])
    (directory / name).write_text("[]")
    with pytest.raises(BadFile, match="one JSON object"):
        report.build([directory])
    (directory / name).unlink()
    with pytest.raises(BadFile, match=f"rome-sequential is not a finished run: it has no {name}"):
        report.build([directory])


def test_checkpoints_of_another_shape_are_refused(tmp_path: Path) -> None:
    directory = fabricated.run(tmp_path, "rome")
    change(directory, "summary.json", checkpoints=[{"metrics": {}}])
    with pytest.raises(BadFile, match="checkpoints"):
        report.build([directory])
    with pytest.raises(BadFile, match="at least one run"):
        report.build([])


def test_the_page_is_written_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    directory = fabricated.run(tmp_path, "rome")
    out = tmp_path / "new" / "report.html"
    report.write([directory], out)
    page = out.read_text(encoding="utf-8")
    assert page == report.build([directory]), "the same runs make the same bytes"
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert not any(word in page for word in ("<script", "<link", "<img", "url(", "@import"))
    assert "prefers-color-scheme: dark" in page
    with pytest.raises(BadFile, match="cannot be written"):
        report.write([directory], directory)


def test_reporting_does_not_wait_for_torch(tmp_path: Path) -> None:
    directory = fabricated.run(tmp_path, "rome")
    code = f"import sys; from errata import report; report.build([{str(directory)!r}])"
    code += "; assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
