"""Covariances of experts, kept on disk as those of dense matrices are: a second process reads them, and parts add up.

pytest tests/stats/test_experts.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import methods
from errata.cli.app import main
from errata.delta import Site
from errata.errors import StatsMissing
from errata.methods.shared import experts
from errata.methods.shared.one_matrix import OneMatrix
from errata.model.experts import expert_sites, opened_keys, routing_at
from errata.model.lm import LM
from errata.stats import accumulate, moments, store
from errata.stats.corpus import open_corpus
from errata.stats.moments import keys_of
from errata.stats.parts import share
from errata.stats.store import ensure, keys, sample_size
from tests import shrunk, tiny

FUSED = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")  # plain, small, transposed with biases, beside a shared one
TOKENS = 1500
FACTS = tiny.FACTS


def built(name: str = "qwen3_moe") -> LM:
    return shrunk.build(name, "decoder", 2)


def named(lm: LM, tokens: int = TOKENS, corpus: str = "primer") -> dict[Site, store.Key]:
    return keys(lm, expert_sites(lm, max(lm.experts)), corpus, tokens)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the batches that run."""
    ran: list[int] = []

    def counted(*args: Any) -> Any:
        ran.append(1)
        return keys_of(*args)

    monkeypatch.setattr(accumulate, "keys_of", counted)
    return ran


@pytest.mark.parametrize("name", FUSED)
def test_each_is_the_sum_over_the_tokens_that_open_it(name: str) -> None:
    lm = built(name)
    layer, read = max(lm.experts), 0
    sums, counts = dict[int, torch.Tensor](), dict[int, int]()
    for ids, real in open_corpus("primer").batches(lm, TOKENS, context=128):
        for row, seen in zip(ids, real, strict=True):  # a text at a time: no padding, and none of our batches
            one = {"input_ids": row[seen][None], "attention_mask": torch.ones(1, int(seen.sum()), dtype=torch.long)}
            routing = routing_at(lm, Site(layer, "experts"), one)
            for expert, (rows, found) in opened_keys(lm.experts[layer], routing).items():
                sums[expert] = sums.get(expert, 0) + found.double().T @ found.double()
                counts[expert] = counts.get(expert, 0) + len(rows)
        read += int(real.sum())
    known = ensure(lm, named(lm))
    assert [site.role for site in known] == [f"expert{number}" for number in range(4)]
    for number, (total, how) in enumerate(known.values()):
        torch.testing.assert_close(total.total, sums[number], atol=1e-3, rtol=1e-5)
        assert (total.count, how.tokens, how.by) == (counts[number], read, "limit")
    assert sum(counts.values()) == 2 * read


def test_a_second_process_reads_what_the_first_has_kept(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    how = methods.make("rome", {"tokens": TOKENS, "steps": 5, "corpus": "primer"})
    first = how.solve(built(), FACTS[:1])
    assert passes
    ran = len(passes)
    monkeypatch.setattr(store, "_collect", None)
    again = how.solve(built(), FACTS[:1])
    assert len(passes) == ran
    assert first.deltas.keys() == again.deltas.keys()
    assert all(torch.equal(first.deltas[site].dense(), again.deltas[site].dense()) for site in first.deltas)
    rows = first.report["statistics"]
    assert rows.keys() == {str(site) for site in first.deltas}
    assert again.report["statistics"] == rows
    assert all({"name", "tokens", "by", "opened"} <= row.keys() for row in rows.values())
    assert all(store.there(row["name"]) for row in rows.values())


def test_only_what_is_opened_is_read_from_disk() -> None:
    how = methods.make("rome", {"tokens": TOKENS, "steps": 5, "corpus": "primer"})
    how.prepare(tiny.build("qwen3_moe", num_experts=32))
    lm = tiny.build("qwen3_moe", num_experts=32)
    edit = how.solve(lm, FACTS[:1])
    assert {key.site for key in lm.memory if isinstance(key, store.Key)} == {str(site) for site in edit.deltas}
    assert 0 < len(edit.deltas) < 32


def test_a_torn_file_is_read_again_alone_to_the_same_bits(passes: list[int]) -> None:
    whole = ensure(built(), named(built()))
    ran = len(passes)
    site, key = list(named(built()).items())[2]
    path, _ = store.files(key.name())
    path.write_bytes(path.read_bytes()[:100])
    found = ensure(built(), named(built()))
    assert len(passes) == 2 * ran
    assert all(torch.equal(found[one][0].total, whole[one][0].total) for one in whole)
    assert found[site][0].count == whole[site][0].count


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [2, 3])
def test_an_interrupted_pass_goes_on_where_it_was(
    passes: list[int], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(store, "SAVE_EVERY", 1)
    monkeypatch.setattr(moments, "GATHERED", 1)
    whole = ensure(built(), named(built()))
    batches, passes[:] = len(passes), []
    for file in store.directory().iterdir():
        file.unlink()

    def progress(*_: int) -> None:
        if len(passes) == after:
            raise Interrupted

    lm = built()
    with pytest.raises(Interrupted):
        ensure(lm, named(lm), progress)
    assert not list(store.directory().glob("*.json"))
    found = ensure(built(), named(built()))
    assert all(torch.equal(found[site][0].total, whole[site][0].total) for site in whole)
    assert all((found[site][0].count, found[site][1]) == (whole[site][0].count, whole[site][1]) for site in whole)
    assert len(passes) == batches + 1  # the batch that was not saved


def test_parts_read_apart_are_the_whole() -> None:
    lm = built()
    whole = ensure(lm, named(lm))
    for file in store.directory().iterdir():
        file.unlink()
    for part in ("1/2", "2/2"):
        share(built(), [named(lm)], part)
    other = built()
    rows = share(other, [named(other)], "all/2")
    for site, (total, how) in ensure(built(), named(lm)).items():
        torch.testing.assert_close(total.total, whole[site][0].total, rtol=1e-5, atol=1e-4)
        assert (total.count, how.tokens) == (whole[site][0].count, whole[site][1].tokens)
        assert rows[str(site)]["opened"] == total.count


def test_text_and_length_are_those_of_dense_matrices(tmp_path: Path) -> None:
    lm = built()
    how = methods.make("rome", {}).resolve(lm)
    dense = methods.make("rome", {}).resolve(tiny.build("llama"))
    (wanted,), (usual,) = how.wanted(lm), dense.wanted(tiny.build("llama"))
    ours, theirs = next(iter(wanted.values())), next(iter(usual.values()))
    assert (how.role, how.corpus) == ("experts", dense.corpus)
    assert (ours.corpus, ours.revision, ours.rule, ours.kind, ours.context) == (
        theirs.corpus, theirs.revision, theirs.rule, theirs.kind, theirs.context,
    )  # fmt: skip
    assert ours.tokens == sample_size(lm, 24)
    assert sample_size(lm, 10_000) == 640_000


def test_each_expert_settles_by_itself() -> None:
    lm = built()
    found = ensure(lm, named(lm, 0))
    assert {how.by for _, how in found.values()} <= {"settled", "limit"}
    assert "settled" in {how.by for _, how in found.values()}
    assert len({how.tokens for _, how in found.values()}) > 1
    assert all(total.count < how.tokens for total, how in found.values())


def test_an_expert_that_no_text_opens_is_written_by_the_size_of_the_others(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("a", encoding="utf-8")  # one token, which opens two of four
    lm = built()
    how = methods.make("rome", {"corpus": str(text), "steps": 5})
    edits = [how.solve(lm, [fact]) for fact in FACTS]
    rows = {site: row for edit in edits for site, row in edit.report["statistics"].items()}
    assert {row["opened"] for row in rows.values()} == {0, 1}
    assert all(delta.isfinite() for edit in edits for delta in edit.deltas.values())
    known, resolved = (
        ensure(lm, keys(lm, expert_sites(lm, how.resolve(lm).sites()[0].layer), str(text))),
        how.resolve(lm),
    )
    assert isinstance(resolved, OneMatrix)
    shut = next(place for place, (total, _) in enumerate(known.values()) if not total.count)
    found, key = experts.moments(resolved, lm, resolved.sites()[0], [shut]), torch.ones(24, dtype=torch.float64)
    size = (
        sum(float(total.total.diagonal().mean()) for total, _ in known.values()) / 2
    )  # of the two that the token opened
    torch.testing.assert_close(found.solve(shut, key, 1e-3), key / (experts.FEW * 24 * size))


def test_a_text_the_tokenizer_makes_nothing_of_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text("x", encoding="utf-8")
    lm = built()
    lm.tokenizer.backend_tokenizer.pre_tokenizer = tiny.pre_tokenizers.Split("x", "removed")
    how = methods.make("rome", {"corpus": str(path)}).resolve(lm)
    assert isinstance(how, OneMatrix)
    with pytest.raises(StatsMissing, match="no keys were collected"):
        experts.moments(how, lm, how.sites()[0], [0])


def test_they_can_be_made_and_shown_beforehand(
    tmp_path: Path, passes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    lm, where = built(), tmp_path / "model"
    lm.model.save_pretrained(where)
    lm.tokenizer.save_pretrained(where)
    asked = ["stats", "--model", str(where), "--method", "rome", "--set", f"tokens={TOKENS}", "--corpus", "primer"]
    asked += ["--book", str(tmp_path / "book")]
    capsys.readouterr()
    assert main([*asked, "--json"]) == 0
    rows, ran = json.loads(capsys.readouterr().out), len(passes)
    assert ran
    assert [site.split(".")[1] for site in rows] == [f"expert{number}" for number in range(4)]
    assert main(asked) == 0
    assert "opened it" in capsys.readouterr().out
    assert len(passes) == ran
