"""Statistics read in parts by processes that know nothing of each other: the sum is what one would have found.

pytest tests/stats/test_parts.py
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from errata import methods
from errata.delta import Site
from errata.errors import BadConfig, StatsMissing
from errata.model.lm import LM
from errata.stats import accumulate, parts, store
from errata.stats.gradients import of_batch
from errata.stats.moments import keys_of
from errata.stats.parts import share
from errata.stats.store import described, ensure, keys
from tests import tiny

SITES = (Site(0, "down"), Site(1, "down"))
TOKENS = 4000
ROOT = Path(__file__).parents[2]
KINDS = ("moment", "gradient")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the batches that run."""
    ran: list[int] = []

    def counted(read: Any) -> Any:
        def one(*args: Any) -> Any:
            ran.append(1)
            return read(*args)

        return one

    monkeypatch.setattr(accumulate, "keys_of", counted(keys_of))
    monkeypatch.setattr(accumulate.gradients, "of_batch", counted(of_batch))
    return ran


def named(lm: LM, kind: str, tokens: int = TOKENS) -> dict[Site, store.Key]:
    return keys(lm, SITES, "primer", tokens, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_read_apart_are_the_whole(kind: str, passes: list[int]) -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    whole = ensure(lm, named(lm, kind))
    alone, passes[:] = len(passes), []
    for file in store.directory().iterdir():
        file.unlink()
    how = tiny.build("llama", dtype=torch.float64)
    for number in (3, 1):
        one = tiny.build("llama", dtype=torch.float64)
        share(one, [named(one, kind)], f"{number}/3")
    label = "0.down" if kind == "moment" else "0.down gradient"
    with pytest.raises(StatsMissing, match=rf"of {label} 2/3 is not in"):
        share(how, [named(how, kind)], "all/3")
    with pytest.raises(StatsMissing, match=r"1/4, 2/4, 3/4, 4/4 are not in"):
        share(how, [named(how, kind)], "all/4")
    assert {row["by"] for row in share(how, [named(how, kind)], "2/3").values()} == {"part"}
    assert len(passes) == alone
    found = share(how, [named(how, kind)], "all/3")
    assert {one.get("by") for one in found.values()} == {"limit" if kind == "moment" else None}
    assert found == described(how, named(how, kind))
    for lm in (how, tiny.build("llama", dtype=torch.float64)):
        for site, (total, ended) in ensure(lm, named(lm, kind)).items():
            torch.testing.assert_close(total.mean, whole[site][0].mean, rtol=1e-12, atol=1e-18)
            assert (total.count, ended.tokens) == (whole[site][0].count, whole[site][1].tokens)
    assert len(passes) == alone


@pytest.mark.parametrize(
    ("method", "options", "part", "said"),
    [
        *(
            ("memit", {"tokens": 900}, part, "no part")
            for part in ("5/4", "some/4", "0/4", "0/0", "all/0", "-1/4", "²/4")
        ),
        *(
            ("memit", {"tokens": 900}, part, "no part")
            for part in ("1/4/4", "1", "/", "1/", "all/", "1.5/4", "all/all")
        ),
        ("memit", {}, "1/4", "set tokens=N"),
        ("memit", {}, "all/4", "set tokens=N"),
        ("ft", {}, "1/4", "keeps no statistics"),
        ("ultraedit", {}, "1/4", "keeps no statistics"),
    ],
)
def test_what_is_no_part_is_said_and_nothing_is_kept(
    lm: LM, method: str, options: dict[str, int], part: str, said: str, cache: Path
) -> None:
    with pytest.raises(BadConfig, match=said):
        methods.make(method, options).collect(lm, part=part)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("method", "options", "labels"),
    [
        ("rome", {"tokens": 900, "layer": 1}, ["1.down"]),
        ("oedit", {"tokens": 900, "layer": 1}, ["1.down gradient", "1.down"]),
        ("ft", {"constraint": "o-edit", "layer": 1}, ["1.down gradient"]),
    ],
)
def test_a_method_can_be_given_its_parts(
    lm: LM, passes: list[int], method: str, options: dict[str, Any], labels: list[str]
) -> None:
    how = methods.make(method, options)
    for part in ("1/2", "2/2", "all/2"):
        found = how.collect(lm, part=part)
        assert list(found) == labels
    assert all(row["tokens"] >= 800 for row in found.values())
    ran = len(passes)
    assert how.collect(lm) == how.collect(lm, part="all/2") == how.collect(tiny.build("llama"))
    assert len(passes) == ran


def test_parts_of_another_text_or_model_are_none_of_these(lm: LM, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sun rises in the east.\n\nIt sets in the west.\n", encoding="utf-8")
    for part in ("1/2", "2/2"):
        share(lm, [keys(lm, SITES, str(text), 900)], part)
    share(lm, [keys(lm, SITES, str(text), 900)], "all/2")
    other = tiny.build("gpt2")
    for whose, corpus, tokens in ((lm, "primer", 900), (lm, str(text), 901), (other, str(text), 900)):
        with pytest.raises(StatsMissing, match="1/2, 2/2 are not in"):
            share(whose, [keys(whose, SITES, corpus, tokens)], "all/2")
    text.write_text("The sun rises in the west.\n", encoding="utf-8")
    with pytest.raises(StatsMissing, match="1/2, 2/2 are not in"):
        share(lm, [keys(lm, SITES, str(text), 900)], "all/2")


def test_more_parts_than_batches_are_the_whole(lm: LM, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sun rises in the east.\n", encoding="utf-8")
    wanted = [keys(lm, SITES, str(text), 900, kind) for kind in KINDS]
    for number in range(1, 4):
        share(lm, wanted, f"{number}/3")
    share(lm, wanted, "all/3")
    other = tiny.build("llama")
    for known in wanted:
        for site, key in known.items():
            read = parts.read(key)
            assert read is not None
            for file in store.directory().glob(f"{key.name()}.*"):
                file.unlink()
            torch.testing.assert_close(read[0].mean, ensure(other, {site: key})[site][0].mean, rtol=1e-12, atol=0)


KILLED = """
import os, signal
from errata.stats import accumulate, store
from tests.stats.test_parts import both
store.SAVE_EVERY, ran = 2, 0
accumulate.moments.GATHERED = 1
add = accumulate.GradientReading.add
def dies(self, ids, real):
    global ran
    ran += 1
    if ran == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, ids, real)
accumulate.GradientReading.add = dies
both()
"""


def both() -> None:
    lm = tiny.build("llama")
    share(lm, [named(lm, kind, 2 * TOKENS) for kind in KINDS], "1/2")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_part_that_was_killed_goes_on_where_it_was_to_the_same_bits(
    cache: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(cache.glob("*.partial.safetensors"))) == 1
    assert len(list(cache.glob("*.json"))) == len(SITES), "the covariances were read before"
    monkeypatch.setattr(accumulate.moments, "GATHERED", 1)
    both()
    went_on, passes[:] = len(passes), []
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "other"))
    both()
    files = sorted(file.name for file in cache.glob("*.safetensors"))
    assert files == sorted(file.name for file in (tmp_path / "other").glob("*.safetensors"))
    for name in files:
        assert torch.equal(*(load_file(where / name)["total"] for where in (cache, tmp_path / "other")))
    assert 0 < went_on == len(passes) // 2 - 3
