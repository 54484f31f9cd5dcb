"""Plugins: a whole package as docs/adding-a-method.md has it; what may not be had is left out and named; the SDK's names.

pytest tests/test_plugins.py
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

import errata
from errata import methods, plugins, sdk
from errata.cli import main
from errata.data.cases import known_sets, parse
from errata.errors import ErrataError, UnknownMethod
from errata.evaluate.metrics import METRICS, named, table
from errata.evaluate.summary import summarize
from errata.export.forms import form_of
from errata.methods.rome import Rome
from errata.report.names import ordered, section, sign

PAGE = (Path(__file__).parents[1] / "docs/adding-a-method.md").read_text(encoding="utf-8")
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return what puts a package with entry points on the path, as pip would; afterwards it was never there."""
    monkeypatch.setenv("ERRATA_PLUGINS", "all")
    before = set(sys.modules)

    def install(package: str, points: dict[str, dict[str, str]], **modules: str) -> None:
        root = tmp_path / f"site-{package}"
        about = root / f"{package.replace('-', '_')}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in points.items())
        (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        for name, text in modules.items():
            (root / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(root)
        invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    plugins._loaded.cache_clear()


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M) if found == kind]


@pytest.fixture
def page(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Install the package of the page, and return its command lines as words."""
    method, _, more = blocks("python")
    one, other = (tomllib.loads(text)["project"] for text in blocks("toml"))
    install("plain-edits", one["entry-points"] | other["entry-points"], plain_edits=method, more_edits=more)
    monkeypatch.chdir(tmp_path)
    return [shlex.split(line) for line in "".join(blocks("")).splitlines()]


def test_the_method_of_the_page_writes_and_its_form_exports(
    page: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert {line[0] for line in page} == {"errata"}
    shown = {}
    for line in page:
        if line[1] != "bench":  # what a run is made of is asked below, in less time
            assert main(line[1:]) == 0, capsys.readouterr().err
            shown[line[1]], err = capsys.readouterr()
            assert "left out" not in err
    assert "strength" in shown["methods"]
    assert "Lyon" in shown["ask"]
    with errata.open("primer") as editor:
        (edit,) = editor.standing
        assert (edit.method, edit.versions["plain-edits"]) == ("plain", "1.0")
        assert editor.ask("The capital of Spain is").text == " Madrid."
    written = Path("standing/facts.csv").read_text(encoding="utf-8")
    assert written.splitlines() == ["prompt,subject,target", "The capital of France is,France,Lyon"]


def test_the_benchmark_and_the_number_of_the_page(page: list[list[str]]) -> None:
    asked = {line[line.index("--cases") + 1] for line in page if line[1] == "bench"}
    assert asked == {"primer:4", "quiz:quiz.json"}
    row = {
        "id": 7,
        "question": "The capital of Spain is",
        "reply": "Lyon",
        "about": "Spain",
        "again": "In Spain the capital is",
    }
    Path("quiz.json").write_text(json.dumps([row]), encoding="utf-8")
    (case,) = parse("quiz:quiz.json")
    assert (case.id, case.target, case.rephrases) == ("quiz-7", "Lyon", ("In Spain the capital is",))
    rows = [
        {"case": c, "probe": "edit", "scores": {"said": 0.0}, "said": said}
        for c, said in (("a", " one two"), ("b", None))
    ]
    found = summarize(rows)
    assert (found["words"].mean, found["words"].n, found["words"].missing) == (2.0, 1, 1)
    assert (section("words"), sign("words"), ordered(["words", "said"])) == ("Language", -1.0, ["said", "words"])


STUB = """
from dataclasses import dataclass
from typing import ClassVar
from errata.methods.rome import Rome  # imported, not given
from errata.sdk import Method, Site, Solution
@dataclass(frozen=True, kw_only=True)
class Stub(Method):
    name: ClassVar[str] = "{name}"
    def sites(self): return (Site(0, "down"),)
    def compute(self, lm, facts, past): return Solution({{}})
"""


def listed() -> list[str]:
    """Return what is left out, a sentence each, when all methods are listed."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        methods.names()
    return [str(one.message) for one in told if one.category is plugins.PluginWarning]


def test_no_plugin_replaces_what_errata_has(install: Install) -> None:
    install("bold", {"errata.methods": {"rome": "bold_one", "preset": "bold_two"}},
            bold_one=STUB.format(name="rome"), bold_two=STUB.format(name="melo-t5"))  # fmt: skip
    told = listed()
    assert len(told) == 2
    assert all("of bold" in one and "no plugin replaces" in one for one in told)
    assert methods.get("rome") is Rome
    assert methods.get("melo-t5").name == "melo"


def test_the_first_of_two_packages_has_the_name(install: Install) -> None:
    for package in ("zebra", "aardvark"):
        install(package, {"errata.methods": {"stub": package}}, **{package: STUB.format(name="stub")})
    (told,) = listed()
    assert "of zebra" in told
    assert "aardvark has already" in told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert methods.get("stub").__module__ == "aardvark"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "no subclass of errata.sdk.Method"),
        (STUB.format(name="half").replace("def compute", "def computed"), "does not say its sites() or compute()"),
        (STUB.format(name="Big Name"), "lower-case"),
    ],
    ids=["import", "syntax", "exit", "nothing", "abstract", "name"],
)
def test_a_broken_plugin_is_named_and_the_rest_goes_on(
    install: Install, request: pytest.FixtureRequest, text: str, why: str
) -> None:
    module = f"broken_{request.node.callspec.id}"
    install("broken", {"errata.methods": {"bad": module}}, **{module: text})
    install("sound", {"errata.methods": {"stub": "sound"}}, sound=STUB.format(name="stub"))
    (told,) = listed()
    assert "'bad' of broken" in told
    assert why in told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert methods.make("stub", {"seed": 3}).seed == 3
        with pytest.raises(UnknownMethod):
            methods.get("bad")


def test_a_broken_plugin_is_a_note_of_the_command_line(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("broken", {"errata.methods": {"bad": "broken_note"}}, broken_note="1 / 0")
    assert main(["methods"]) == 0
    out, err = capsys.readouterr()
    assert "rome" in out
    assert err.count("left out") == 1
    assert "ZeroDivisionError" in err
    assert main(["methods", "rome"]) == 0
    assert "left out" not in capsys.readouterr().err  # nobody asked for a plugin
    assert main(["--quiet", "methods"]) == 0
    assert not capsys.readouterr().err


def test_plugins_can_be_left_out_or_chosen(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("one", {"errata.methods": {"stub": "one_of"}}, one_of=STUB.format(name="stub"))
    for value, there in (("none", False), ("all", True), ("", True), ("other, ONE", True), ("other", False)):
        monkeypatch.setenv("ERRATA_PLUGINS", value)
        assert ("stub" in methods.names()) is there, value


MORE = """
from errata.sdk import Case, ExportForm, KnownSet, Metric
def fails(row): raise ValueError("no such thing")
{kind}
"""


@pytest.mark.parametrize(
    ("group", "kind", "ask"),
    [
        ("readers", 'mine = KnownSet("zsre", "", (), "", "", print)', known_sets),
        ("exports", 'mine, other = ExportForm("mine", print), ExportForm("gguf", print)', lambda: form_of("mine")),
        ("metrics", 'mine = Metric("said", fails, (), "Size", "", "", score=fails)', table),
        ("metrics", 'mine = Metric("mine", fails, (), "Size", "", "")', table),
        ("readers", "mine = 3", known_sets),
    ],
    ids=["readers", "exports", "metrics", "scoreless", "number"],
)
def test_other_plugins_replace_nothing_either(
    install: Install, request: pytest.FixtureRequest, group: str, kind: str, ask: Callable[[], object]
) -> None:
    module = f"more_{request.node.callspec.id}"
    install(
        "more",
        {f"errata.{group}": {"mine": module if group == "exports" else f"{module}:mine"}},
        **{module: MORE.format(kind=kind)},
    )
    with pytest.warns(plugins.PluginWarning, match="of more"):
        ask()
    assert named("said") in METRICS


def test_a_number_that_fails_says_whose_it_is(install: Install) -> None:
    made = 'mine = Metric("mine", fails, (("edit", "mine"),), "Size", "", "", score=fails)'
    install("more", {"errata.metrics": {"mine": "more_fails:mine"}}, more_fails=MORE.format(kind=made))
    rows = [{"case": "a", "probe": "edit", "scores": {"said": 1.0}, "said": "x"}]
    with pytest.raises(ErrataError, match=r"'mine' fails on case 'a'.*ERRATA_PLUGINS=none"):
        summarize(rows)


def test_a_reader_that_is_not_there_is_told_with_those_that_are(install: Install) -> None:
    install("more", {"errata.readers": {"mine": "more_reader"}},
            more_reader=MORE.format(kind='mine = KnownSet("mine", "t", ("mine.json",), "where", "CC0", print)'))  # fmt: skip
    with pytest.raises(ErrataError, match=r"primer|mine"):
        parse("mien:x.json")
    assert "mine" in {known.name for known in known_sets()}


def test_every_name_of_the_sdk_is_there_and_says_what_it_is() -> None:
    named = [name for part in sdk.PARTS.values() for name in part]
    assert named == list(sdk.__all__)
    assert len(set(named)) == len(named)
    for name in named:
        value = getattr(sdk, name)
        assert value is not None
        assert name in ("Auto", "Role", "Row", "Score") or value.__doc__, name
    with pytest.raises(AttributeError, match="Did you mean Method"):
        _ = sdk.Methode
