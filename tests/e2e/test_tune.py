"""Tuning: what the model knows is written, the better half goes on, the other half of the facts decides, the page shows it.

pytest tests/e2e/test_tune.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errata.answers import says
from errata.cli import main
from errata.data.common import relations
from errata.editing import tune as tuning
from errata.editing.tune import Ability, Task, alike, known_facts, tune
from errata.errors import BadConfig, BadFact
from errata.fact import Fact, Probe
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.keys import gather
from errata.stats import profile
from errata.stats.profile import Profile
from tests import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "relations", lambda: relations()[:3])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHARES": (0.0, 0.17), "MARGINS": (3.0,), "FIRST": 1, "MOST": 2, "HELD": 2}.items():
        monkeypatch.setattr(tuning, name, value)


def test_known_facts_are_known_and_get_another_answer_of_their_kind(shipped: LM) -> None:
    found = known_facts(shipped)
    assert len(found) >= 24
    assert [task.fact for task in found] != [task.fact for task in known_facts(shipped, 1)]
    for task in found[::6]:
        fact = task.fact
        assert says(shipped.generate([fact.prompt], 8)[0], fact.truth)
        assert fact.target != fact.truth
        worded = [probe for probe in fact.probes if probe.kind == "paraphrase"]
        assert worded
        assert all(fact.subject in probe.prompt and probe.answer == fact.target for probe in worded)
        near = [probe for probe in fact.probes if probe.kind == "neighborhood"]
        assert near
        assert all(fact.subject not in probe.prompt and probe.answer != fact.target for probe in near)
        said = shipped.generate([probe.prompt for probe in near], 8)
        assert all(says(text, probe.answer) for text, probe in zip(said, near, strict=True))


def test_the_score_is_the_harmonic_mean_less_the_drift() -> None:
    assert Ability(1.0, 0.5, 1.0, 0.0, 4).score == pytest.approx(0.75)
    assert Ability(1.0, 1.0, 1.0, 0.1, 4).score == pytest.approx(0.8)
    assert Ability(1.0, 0.0, 1.0, 0.1, 4).score == pytest.approx(-0.2)


def test_the_better_half_writes_twice_as_many_until_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    search = tuning._Search(tiny.build("llama"), [], 0, print)
    asked: list[tuple[int, int]] = []

    def tried(name: str, settings: dict[str, Any], tasks: list[Task], held: bool) -> Ability:
        asked.append((settings["layer"], len(tasks)))
        return Ability(1.0, 0.1 + 0.2 * settings["layer"], 1.0, 0.0, len(tasks))

    monkeypatch.setattr(tuning._Search, "_tried", lambda self, *given: tried(*given))
    tasks = [Task(Fact(prompt=f"A{i} is", subject=f"A{i}", target="b")) for i in range(9)]
    assert search._halved("rome", [{"layer": layer} for layer in range(4)], tasks, 3) == {"layer": 3}
    assert asked == [*((layer, 3) for layer in range(4)), (3, 6), (2, 6)]


def test_keys_are_as_alike_as_their_cosine_says() -> None:
    lm = tiny.build("llama")
    probe = Probe("paraphrase", "They say that France is governed from", "Rome")
    fact = Fact(prompt="The capital of France is", subject="France", target="Rome", probes=(probe,))
    site = tuning.Site(1, "down")
    keys, _ = gather(lm, [Query.of(fact, ""), Query(probe.prompt, span=(14, 20))], inputs=[site])
    wanted = keys[site][0] @ keys[site][1] / keys[site].norm(dim=1).prod()
    assert alike(lm, [fact], [1])[1] == pytest.approx(float(wanted), abs=1e-6)


def test_a_model_is_tuned_and_keeps_what_did_better_on_the_other_half(
    shipped: LM, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shipped.memory, "profile", Profile(settings={"rome": {"layer": 5}}))  # not looked at
    found = tune(shipped, ["rome"])
    assert shipped.memory["profile"].settings["rome"] == {"layer": 5}
    tried = [one.to_dict() for one in found.tried]
    assert tried[0]["settings"] == {"layer": 0}
    assert {"layer": 1} in [one["settings"] for one in tried]
    was, now = (one for one in tried if one["held"])
    assert was["settings"] == {}
    assert was["said"] == 1.0
    assert found.profile.settings["rome"] == (now["settings"] if now["score"] > was["score"] else {})
    assert found.profile.measured["rome"]["score"] == max(now["score"], was["score"])
    assert (found.profile.best, found.profile.fingerprint, found.profile.facts) == ("rome", shipped.fingerprint, 2)
    json.dumps(found.to_dict())


def test_what_cannot_be_tuned_is_refused_in_a_sentence(shipped: LM) -> None:
    with pytest.raises(BadConfig, match="kne has no layer that could be chosen"):
        tune(shipped, ["kne"])
    with pytest.raises(BadFact, match="only 0 public ones does it know: give facts of yours"):
        tune(tiny.build("llama"))
    with pytest.raises(BadFact, match="only 0 of those given have"):
        tune(shipped, facts=tiny.FACTS)


def test_the_command_keeps_shares_takes_and_forgets(
    shipped: LM, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("errata.model.loading.load", lambda *_, **__: shipped)
    monkeypatch.setenv("COLUMNS", "80")
    shipped.memory.pop("profile", None)
    files = [tmp_path / "p.toml", tmp_path / "p.html"]
    assert main(["tune", "primer", "--method", "rome", "--out", str(files[0]), "--page", str(files[1])]) == 0
    shown = capsys.readouterr().out
    assert "others, as it was" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert profile.read(files[0]) == profile.kept(shipped)
    assert "<h2>rome</h2>" in files[1].read_text()
    assert "layer=1" in files[1].read_text()

    shared = Profile("primer", shipped.fingerprint, {"rome": {"layer": 3}}, "rome")
    files[0].write_text(shared.toml())
    assert main(["tune", "primer", "--use", str(files[0])]) == 0
    assert profile.kept(shipped) == shared
    capsys.readouterr()
    assert main(["arch", "primer"]) == 0
    assert "tuned: rome layer=3" in capsys.readouterr().out
    assert main(["tune", "primer", "--forget"]) == 0
    assert profile.kept(shipped) == Profile()
    capsys.readouterr()

    bad = {
        "it sets a layer that is not there": Profile("p", shipped.fingerprint, {"rome": {"layer": 99}}),
        "it sets what is no setting": Profile("p", shipped.fingerprint, {"rome": {"colour": 1}}),
        "it is of another model": Profile("p", "0" * 32, {"rome": {"layer": 3}}),
    }
    for given in bad.values():
        files[0].write_text(given.toml())
        assert main(["tune", "primer", "--use", str(files[0])]) == 2
    assert main(["tune", "primer", "--use", str(files[0]), "--forget"]) == 2
    assert main(["tune", "primer", "--out", str(tmp_path / "no" / "p.toml")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 5
    assert profile.kept(shipped) == Profile()
