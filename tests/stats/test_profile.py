"""A profile is of one model, fills what is left at "auto" and nothing else, and can be shared as TOML.

pytest tests/stats/test_profile.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from errata import methods
from errata.errors import BadFile
from errata.stats import profile
from errata.stats.profile import Profile
from tests import tiny

SETTINGS = {"rome": {"layer": 2, "margin": 3.0}, "memit": {"layers": (1, 2), "margin": None}}
MEASURED = {"rome": {"said": 1.0, "score": 0.875}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))


def made(fingerprint: str) -> Profile:
    return Profile('small "llama" é', fingerprint, SETTINGS, "rome", MEASURED, 12)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(made("abc").toml())
    assert profile.read(tmp_path / "p.toml") == made("abc")
    assert Profile() == Profile("", "", {}, "", {}, 0)


def test_what_is_left_at_auto_is_taken_from_it_and_what_is_said_stays() -> None:
    lm = tiny.build("llama")
    by_size = methods.make("rome", {}).resolve(lm)
    assert profile.kept(lm) == Profile()
    assert profile.keep(lm, made(lm.fingerprint)).exists()
    rome, memit = (methods.make(name, {}).resolve(lm) for name in ("rome", "memit"))
    assert (rome.layer, rome.margin, memit.layers) == (2, 3.0, (1, 2))
    assert (rome.steps, rome.clamp) == (by_size.steps, by_size.clamp)
    assert methods.make("rome", {"layer": 1}).resolve(lm).layer == 1
    assert methods.make("ft", {}).resolve(lm) == methods.make("ft", {}).resolve(tiny.build("llama"))


def test_it_is_found_by_who_opens_the_model_again_and_by_no_other_model() -> None:
    lm = tiny.build("llama", 2)
    profile.keep(lm, made(lm.fingerprint))
    assert profile.kept(tiny.build("llama", 2)) == made(lm.fingerprint)
    assert profile.kept(tiny.build("gpt2")) == Profile()
    assert profile.forget(lm)
    assert not profile.forget(lm)
    assert profile.kept(tiny.build("llama", 2)) == profile.kept(lm) == Profile()


def test_what_is_none_is_refused_in_a_sentence_and_a_torn_one_is_as_none(tmp_path: Path) -> None:
    lm = tiny.build("llama")
    path = profile.keep(lm, made(lm.fingerprint))
    for number, text in enumerate(("", "format = 1", "no toml", 'format = 2\nmodel = "x"', "\xff")):
        (tmp_path / f"{number}.toml").write_text(text, encoding="latin-1")
        with pytest.raises(BadFile):
            profile.read(tmp_path / f"{number}.toml")
    with pytest.raises(BadFile, match=r"errata tune MODEL --out"):
        profile.read(tmp_path / "none.toml")
    path.write_text(made(lm.fingerprint).toml()[:40])
    assert profile.kept(tiny.build("llama")) == Profile()
