"""Statistics kept on disk: keyed by everything, resumable, torn files noticed.

pytest tests/stats/test_store.py
"""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from errata import methods
from errata.delta import Dense, Site
from errata.errors import BadFile, StatsMissing, UnknownSite
from errata.model.lm import LM
from errata.model.loading import load
from errata.stats import accumulate, moments, stopping, store
from errata.stats.accumulate import Ended
from errata.stats.corpus import BUILT_IN, LEAST, SHARES, SMALLEST, open_corpus, sampled, suited
from errata.stats.moments import SecondMoment, keys_of, of_batch
from errata.stats.store import Key, described, keys, sample_size, second_moments, take
from tests import tiny

SITES = (Site(0, "down"), Site(1, "down"))
TOKENS = 8000


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the batches that run."""
    ran: list[int] = []

    def counted(*args: Any) -> Any:
        ran.append(1)
        return keys_of(*args)

    monkeypatch.setattr(accumulate, "keys_of", counted)
    return ran


def plain(lm: LM, site: Site, tokens: int = TOKENS) -> Tensor:
    total = SecondMoment(torch.zeros(lm.inner, lm.inner, dtype=torch.float64), 0)
    for ids, real in open_corpus("primer").batches(lm, tokens, context=128):  # as many positions as it has
        total = total + of_batch(lm, [site], ids, real)[site]
    assert total.count >= tokens
    return total.mean


# ------------------------------------------------------------------ what is computed


def test_it_is_the_sum_over_the_corpus() -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    found = second_moments(lm, SITES, tokens=TOKENS)
    for site in SITES:
        torch.testing.assert_close(found[site], plain(lm, site), atol=1e-12, rtol=1e-12)


def test_documents_are_cut_where_a_model_has_no_more_places(tmp_path: Path) -> None:
    lm = tiny.build("gpt2")  # learned positions: beyond them there is nothing to look up
    assert lm.model.config.max_position_embeddings == 128
    (tmp_path / "long.txt").write_text("The capital of France is Paris. " * 200)
    assert second_moments(lm, SITES, str(tmp_path / "long.txt"), 100)[SITES[0]].isfinite().all()


def test_it_is_the_base_models_whatever_stands(lm: LM) -> None:
    clean = second_moments(tiny.build("llama"), SITES, tokens=TOKENS)
    for file in store.directory().iterdir():
        file.unlink()
    lm.weights.stand([{Site(0, "down"): Dense(torch.randn(tiny.WIDTH, tiny.INNER))}])
    standing = lm.weights[Site(0, "down")].clone()
    found = second_moments(lm, SITES, tokens=TOKENS)
    assert all(torch.equal(found[site], clean[site]) for site in SITES)
    assert torch.equal(lm.weights[Site(0, "down")], standing)


def test_once_is_enough(lm: LM, passes: list[int]) -> None:
    first = second_moments(lm, SITES, tokens=TOKENS)
    once = len(passes)
    assert all(torch.equal(m, first[s]) for s, m in second_moments(lm, SITES, tokens=TOKENS).items())  # from memory
    again = second_moments(tiny.build("llama"), SITES[:1], tokens=TOKENS)  # from disk
    assert torch.equal(again[SITES[0]], first[SITES[0]])
    assert len(passes) == once
    second_moments(lm, (*SITES, Site(2, "down")), tokens=TOKENS)  # only the one that is missing
    assert len(passes) == 2 * once


def test_progress_goes_up_to_all_of_it(lm: LM) -> None:
    seen: list[tuple[int, int]] = []
    second_moments(lm, SITES, tokens=TOKENS, progress=lambda *now: seen.append(now))
    assert [wanted for _, wanted in seen] == [TOKENS] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (TOKENS, TOKENS)


def test_a_site_where_no_text_can_be_found_is_an_error() -> None:
    with pytest.raises(UnknownSite, match="layers 0 to 2"):
        second_moments(tiny.build("t5"), [Site(3, "down")], tokens=TOKENS)
    with pytest.raises(UnknownSite):
        second_moments(tiny.build("llama"), [Site(9, "down")], tokens=TOKENS)


def test_sample_sizes_grow_with_the_matrix(lm: LM) -> None:
    assert sample_size(lm) == 20_000
    lm.inner  # noqa: B018
    assert [max(20_000, min(64 * n, 1_000_000)) for n in (640, 14_336, 99_999)] == [40_960, 917_504, 1_000_000]


# ------------------------------------------------------------------ when it ends


def test_reading_ends_when_it_has_settled_each_site_by_itself(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    sites, limits = (*SITES, Site(2, "down")), []
    for tolerance in (0.0, 1e-4, 0.3, 1.0):
        monkeypatch.setattr(stopping, "TOLERANCE", tolerance)
        for file in store.directory().glob("*"):
            file.unlink()
        together = second_moments(tiny.build("llama"), sites)
        how = ended(tiny.build("llama"), sites)
        limits.append(max(one.tokens for one in how.values()))
        for site in sites:
            assert how[site].by == ("settled" if how[site].tokens < sample_size(lm) else "limit")
            assert how[site].excess is not None
            assert (how[site].excess < tolerance) == (how[site].by == "settled")
        for file in store.directory().glob("*"):
            file.unlink()
        alone = tiny.build("llama")
        assert torch.equal(second_moments(alone, sites[1:2])[sites[1]], together[sites[1]])
        assert ended(alone, sites[1:2])[sites[1]] == how[sites[1]]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] >= sample_size(lm)
    assert limits[-1] < sample_size(lm) / 2


def test_a_number_of_tokens_is_kept_to_and_a_short_corpus_named(lm: LM, tmp_path: Path) -> None:
    assert (ended(lm, SITES[:1], tokens=15_000)[SITES[0]].by, ended(lm, SITES[:1])[SITES[0]].by) == ("limit", "settled")
    assert ended(lm, SITES[:1], tokens=15_000)[SITES[0]].tokens >= 15_000
    (tmp_path / "short.txt").write_text("Anna Lindgren was born in Oslo.")
    how = ended(lm, SITES[:1], str(tmp_path / "short.txt"))[SITES[0]]
    assert (how.by, how.tokens) == ("corpus", len(lm.tokens.ids("Anna Lindgren was born in Oslo.")))
    assert how.excess is None


def test_a_full_disk_is_said_by_the_system_and_leaves_nothing(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"torn")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match="No space left") as raised:
        second_moments(lm, SITES[:1], tokens=TOKENS)
    assert raised.value.errno == errno.ENOSPC
    assert list(store.directory().iterdir()) == []


# ------------------------------------------------------------------ interruptions


def ended(lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0) -> dict[Site, Ended]:
    second_moments(lm, sites, corpus, tokens)
    found = described(lm, keys(lm, sites, corpus, tokens))
    return {site: Ended(*(found[str(site)][name] for name in ("tokens", "by", "excess"))) for site in sites}


class Interrupted(Exception):
    pass


def interrupt_after(count: int) -> Any:
    calls: Iterator[int] = iter(range(1, 10**6))

    def progress(done: int, wanted: int) -> None:
        if next(calls) == count:
            raise Interrupted

    return progress


@pytest.mark.parametrize(("after", "every"), [(1, 1), (4, 2), (5, 3), (7, 50)])
def test_an_interrupted_pass_goes_on_where_it_was(
    lm: LM, passes: list[int], monkeypatch: pytest.MonkeyPatch, after: int, every: int
) -> None:
    monkeypatch.setattr(store, "SAVE_EVERY", every)
    monkeypatch.setattr(moments, "GATHERED", 1)  # nothing waits, so every batch may be followed by a save
    whole = second_moments(tiny.build("llama"), SITES, tokens=TOKENS)
    batches = len(passes)
    assert batches > 7
    for file in store.directory().iterdir():
        file.unlink()
    passes.clear()
    with pytest.raises(Interrupted):
        second_moments(lm, SITES, tokens=TOKENS, progress=interrupt_after(after))
    assert (
        not list(store.directory().glob("*.json")) if store.directory().exists() else True
    )  # nothing claims to be whole
    kept = (after - 1) // every * every  # the progress call comes before the save of its batch
    found = second_moments(tiny.build("llama"), SITES, tokens=TOKENS)
    assert all(torch.equal(found[site], whole[site]) for site in SITES)
    assert len(passes) == after + batches - kept
    assert not list(store.directory().glob("*.partial*"))


@pytest.mark.parametrize("after", [3, 8, 13, 18])
def test_what_waits_and_what_has_settled_is_gone_on_with(
    lm: LM, passes: list[int], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(store, "SAVE_EVERY", 1)
    monkeypatch.setattr(moments, "GATHERED", 1500)  # a few batches
    monkeypatch.setattr(stopping, "TOLERANCE", 0.01)
    wanted = {site: (moment, ended(lm, [site])[site]) for site, moment in second_moments(lm, SITES).items()}
    batches = len(passes)
    assert batches > after
    for file in store.directory().iterdir():
        file.unlink()
    passes.clear()
    with pytest.raises(Interrupted):
        second_moments(tiny.build("llama"), SITES, progress=interrupt_after(after))
    again = tiny.build("llama")
    found = second_moments(again, SITES)
    assert all(torch.equal(found[site], moment) for site, (moment, _) in wanted.items())
    assert ended(again, SITES) == {site: how for site, (_, how) in wanted.items()}
    assert len(passes) <= after + batches - (after > 6)  # what was saved is not read again


def test_an_interruption_leaves_the_model_as_it_was(lm: LM) -> None:
    lm.weights.stand([{Site(0, "down"): Dense(torch.ones(tiny.WIDTH, tiny.INNER))}])
    standing = lm.weights[Site(0, "down")].clone()
    with pytest.raises(Interrupted):
        second_moments(lm, SITES, tokens=TOKENS, progress=interrupt_after(2))
    assert torch.equal(lm.weights[Site(0, "down")], standing)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def torn_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def garbled(path: Path) -> None:
    path.write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]" + path.read_bytes())


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [torn_in_half, emptied, zeroed, garbled, one_bit, Path.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_torn_file_is_computed_again(lm: LM, passes: list[int], harm: Any, suffix: str) -> None:
    whole = second_moments(lm, SITES[:1], tokens=TOKENS)
    once = len(passes)
    (file,) = store.directory().glob(f"*{suffix}")
    harm(file)
    for times in (2, 2):  # again, and then it is whole
        found = second_moments(tiny.build("llama"), SITES[:1], tokens=TOKENS)
        assert torch.equal(found[SITES[0]], whole[SITES[0]])
        assert len(passes) == times * once


@pytest.mark.parametrize("harm", [torn_in_half, emptied, zeroed, garbled])
def test_a_torn_partial_sum_is_begun_again(
    lm: LM, passes: list[int], monkeypatch: pytest.MonkeyPatch, harm: Any
) -> None:
    monkeypatch.setattr(store, "SAVE_EVERY", 2)
    monkeypatch.setattr(moments, "GATHERED", 1)
    with pytest.raises(Interrupted):
        second_moments(lm, SITES, tokens=TOKENS, progress=interrupt_after(5))
    (file,) = store.directory().glob("*.partial.safetensors")
    harm(file)
    found = second_moments(tiny.build("llama"), SITES, tokens=TOKENS)
    torch.testing.assert_close(found[SITES[0]], plain(lm, SITES[0]), atol=1e-6, rtol=1e-5)


def test_what_is_taken_is_kept_on_disk_only(lm: LM, passes: list[int]) -> None:
    found = second_moments(lm, SITES, tokens=TOKENS)
    once, said = len(passes), described(lm, keys(lm, SITES, tokens=TOKENS))
    held = sum(isinstance(known, tuple) and isinstance(known[0], SecondMoment) for known in lm.memory.values())
    for _ in range(2):
        assert torch.equal(take(lm, SITES[0], tokens=TOKENS), found[SITES[0]])
    assert len(passes) == once
    left = sum(isinstance(known, tuple) and isinstance(known[0], SecondMoment) for known in lm.memory.values())
    assert (held, left) == (2, 1)
    assert described(lm, keys(lm, SITES, tokens=TOKENS)) == said


def test_another_models_file_under_our_name_is_not_taken(lm: LM, passes: list[int]) -> None:
    whole = second_moments(lm, SITES[:1], tokens=TOKENS)[SITES[0]]
    ours = {p.suffix: p for p in store.directory().iterdir()}
    second_moments(tiny.build("llama", seed=5), SITES[:1], tokens=TOKENS)
    for theirs in set(store.directory().iterdir()) - set(ours.values()):
        ours[theirs.suffix].write_bytes(theirs.read_bytes())
    assert torch.equal(second_moments(tiny.build("llama"), SITES[:1], tokens=TOKENS)[SITES[0]], whole)


# ------------------------------------------------------------------ keys


def test_every_field_of_a_key_is_in_its_name() -> None:
    key = Key("f" * 32, "1.down", "primer", "1", 400, 256, "torch.float32")
    other = {"tokens": 401, "context": 255, "format": 99}
    names = {replace(key, **{f.name: other.get(f.name, "else")}).name() for f in fields(key)} | {key.name()}
    assert len(names) == 1 + len(fields(key))
    assert key.name() == Key(**{f.name: getattr(key, f.name) for f in fields(key)}).name()


def keyed(lm: LM, **options: Any) -> set[str]:
    before = set(store.directory().glob("*.json")) if store.directory().exists() else set()
    second_moments(lm, SITES[:1], **{"tokens": 200, **options})
    return {p.name for p in set(store.directory().glob("*.json")) - before}


def test_another_model_corpus_size_or_dtype_is_another_statistic(lm: LM, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Anna Lindgren was born in Oslo.\n\nBruno Keller is a baker.")
    made = [keyed(lm), keyed(lm, tokens=201), keyed(tiny.build("llama", seed=1)), keyed(lm, corpus=str(text))]
    made += [keyed(tiny.build("llama", dtype=torch.bfloat16)), keyed(tiny.build("gpt2"))]
    text.write_text("Anna Lindgren was born in Paris.")
    made += [keyed(lm, corpus=str(text))]
    assert [len(names) for names in made] == [1] * len(made)
    assert len(set.union(*made)) == len(made)
    assert keyed(lm) == set()


def test_the_manifest_says_what_it_is(lm: LM) -> None:
    second_moments(lm, SITES[:1], tokens=200)
    (manifest,) = store.directory().glob("*.json")
    said = json.loads(manifest.read_text())
    assert (said["fingerprint"], said["site"], said["corpus"], said["tokens"]) == (
        lm.fingerprint,
        "0.down",
        "primer",
        200,
    )
    assert said["count"] == said["read"] >= 200
    assert (said["by"], said["rule"], said["excess"]) == ("limit", "", None)
    assert said["bytes"] == manifest.with_suffix(".safetensors").stat().st_size


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ERRATA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.directory() == tmp_path / "errata"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.directory() == Path.home() / ".cache" / "errata"


# ------------------------------------------------------------------ corpora


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl", ".jsonl.gz"])
def test_a_corpus_is_a_text_or_jsonl_file(lm: LM, tmp_path: Path, suffix: str) -> None:
    documents = ["Anna Lindgren\nwas born in Oslo.", "Zoë läuft 🎉."]
    lines = [json.dumps({"text": d}) for d in documents]
    text = "\n\n\n".join(documents) + "\n" if ".txt" in suffix else "\n".join([*lines, "", " "])
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    wanted = [d.replace("\n", " ") for d in documents] if ".txt" in suffix else documents
    corpus = open_corpus(str(path))
    assert list(corpus.documents(lm)) == list(corpus.documents(lm)) == wanted


def test_a_corpus_gives_the_tokens_wanted_or_all_it_has(lm: LM, tmp_path: Path) -> None:
    counted = [int(real.sum()) for _, real in open_corpus("primer").batches(lm, 500, rows=4)]
    assert sum(counted[:-1]) < 500 <= sum(counted)
    assert all(ids.shape[1] <= 7 for ids, _ in open_corpus("primer").batches(lm, 200, context=7))
    path = tmp_path / "small.txt"
    path.write_text("Anna.\n\nBruno Keller.")
    (ids, real), *more = open_corpus(str(path)).batches(lm, 10**6)
    assert not more
    assert int(real.sum()) == sum(len(lm.tokens.ids(t)) for t in ("Anna.", "Bruno Keller."))
    assert len(ids) == 2


def test_batches_of_a_group_come_in_no_order_of_length(lm: LM, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps({"text": "Anna. " * n}) + "\n" for n in range(1, 65)))
    batches = list(open_corpus(str(path)).batches(lm, 10**6, rows=8))
    assert sum(int(real.any(1).sum()) for _, real in batches) == 64
    widths = [ids.shape[1] for ids, _ in batches]
    assert widths not in (sorted(widths), sorted(widths, reverse=True))
    again = list(open_corpus(str(path)).batches(lm, 10**6, rows=8))
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(batches, again, strict=True))


BAD: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", "no text in it"),
    "blank.txt": (b"\n \n", "no text in it"),
    "latin.txt": ("Zoë".encode("latin-1"), "cannot read"),
    "late.txt": (b"a\n\n" * 9999 + b"\xff", "cannot read"),
    "text.jsonl": (b'{"text": "a"}\n{"x": 1}\n', "line 2: no JSON object"),
    "list.jsonl": (b"[1]\n", "line 1: no JSON object"),
    "number.jsonl": (b'{"text": 5}\n', "line 1: no JSON object"),
    "no.txt.gz": (b"no gzip", "cannot read"),
    "torn.txt.gz": (gzip.compress(b"Anna. " * 999, mtime=0)[:-30], "cannot read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_corpus_that_cannot_be_read_is_named(lm: LM, tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadFile, match=said) as caught:
        second_moments(lm, SITES, corpus=str(path), tokens=30_000)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_corpus(lm: LM, tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), str(tmp_path), "primr"):
        with pytest.raises(
            BadFile, match="give auto, broad, mixed, own, prose, primer, a text or JSONL file, or datasets:NAME"
        ):
            second_moments(lm, SITES, corpus=name)


def test_text_the_tokenizer_makes_nothing_of_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text("x")
    lm = tiny.build("gpt2")
    lm.tokenizer.backend_tokenizer.pre_tokenizer = tiny.pre_tokenizers.Split("x", "removed")
    with pytest.raises(StatsMissing):
        second_moments(lm, SITES, corpus=str(path), tokens=50)


def test_a_model_is_judged_by_text_of_its_own_kind(lm: LM) -> None:
    assert (suited(lm), sampled(lm), sampled(load("primer"))) == ("prose", "broad", "primer")
    assert (open_corpus("auto", lm).name, open_corpus("auto", load("primer")).name) == ("prose", "primer")
    texts = list(open_corpus("prose").documents(lm))
    assert len(texts) == len(set(texts)) > 100
    assert sum(map(len, texts)) > 60_000
    found = methods.make("memit", {}).resolve(lm)
    assert (found.corpus, methods.make("memit", {"corpus": "primer"}).resolve(lm).corpus) == ("broad", "primer")
    assert methods.make("ultraedit", {}).resolve(lm).corpus == "prose"
    assert set(open_corpus("auto").revision.split("+")) == set(BUILT_IN.values())


@pytest.mark.parametrize(
    ("name", "least"), [("own", LEAST), *((name, share * SMALLEST) for name, share in SHARES.items())]
)
def test_a_models_own_text_is_the_bases_sampled_once(
    lm: LM, monkeypatch: pytest.MonkeyPatch, name: str, least: int
) -> None:
    def documents() -> list[str]:
        return list(open_corpus(name).documents(lm))

    def forget() -> None:
        for key in [key for key in lm.memory if isinstance(key, tuple) and key[0] == "own"]:
            del lm.memory[key]

    forget()
    with lm.weights.trial([{Site(1, "down"): Dense(torch.ones_like(lm.weights[Site(1, "down")]))}]):
        texts = documents()
    forget()
    assert texts == documents()  # whatever stands
    monkeypatch.setattr(LM, "sample", None)
    assert texts == documents()
    told = {*open_corpus("prose").documents(lm)}
    assert least <= sum(len(lm.tokens.ids(text)) for text in texts) < 4 * least
    public = [text for text in texts if text in told]
    assert sum(len(lm.tokens.ids(text)) for text in public) >= (0 if name == "own" else least // 3)
    assert len(public) < len(texts)
    forget()
    monkeypatch.setattr(LM, "sample", lambda *_: [""])
    assert all(text in told for text in documents())  # it ends each text at once: no endless loop
    assert bool(documents()) == (name != "own")
    forget()
