"""Bundles: the same bytes for the same book, the same book for the same bytes, and nothing of a file that is not in order."""

from __future__ import annotations

import io
import json
import shlex
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_edits import BASE, FACT, edit, key

from errata.book import Book, Note, signing
from errata.book import bundle as bundles
from errata.book.bundle import bundle, unbundle
from errata.book.states import tag
from errata.book.verify import verify
from errata.errors import BadBook, ErrataError, InputError, NewerBook
from errata.fact import Fact
from errata.identity import Identity

CONFIG = {"corpus": "primer", "lr": 0.5, "layers": [3, 4], "mask": True, "limit": None, "seed": 2}
REPORT = {
    "statistics": {"5.down": {"name": "f" * 32, "tokens": 9}},
    "norm_ratio": {"5.down": 0.25},
    "facts": [{"prompt": FACT.prompt, "target": "Lyon", "before": " Paris", "after": " Lyon", "said": True}],
}


@pytest.fixture
def filled(book: Book) -> Book:
    plain = Fact(prompt="It's in $(x)", subject="x", target='"Lyon"')
    book.append(
        [edit(1, config=CONFIG, report=REPORT, versions={"torch": "2"}), edit(2, facts=[plain.to_dict()], config={})]
    )
    tag(book, "one", Note("Ann", "first"))
    book.drop([key(1)], author="Ann", reason="no\nlonger")
    book.append([edit(3, config={"words": ["a,b"]})])
    (book.path / "gates.toml").write_text("said = 1.0\n")
    return book


@pytest.fixture
def packed(filled: Book, tmp_path: Path) -> Path:
    bundle(filled, tmp_path / "b.zip")
    return tmp_path / "b.zip"


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_opened_is_the_book(filled: Book, packed: Path, tmp_path: Path) -> None:
    done = unbundle(packed, tmp_path / "new" / "there")
    assert (done.edits, done.events, done.head, done.base) == (3, 5, filled.history()[-1].hash, "primer")
    with Book.open(tmp_path / "new" / "there", BASE) as again:
        assert (again.records(), again.history()) == (filled.records(), filled.history())
        assert [again.read(r) for r in again.records()] == [filled.read(r) for r in filled.records()]
        assert verify(again) == verify(filled)
        again.restore([key(1)])
    assert (tmp_path / "new" / "there" / "gates.toml").read_text() == "said = 1.0\n"


def test_the_same_book_gives_the_same_bytes(filled: Book, packed: Path, tmp_path: Path) -> None:
    bundle(filled, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    unbundle(packed, tmp_path / "copy")
    with Book.open(tmp_path / "copy") as copy:
        bundle(copy, tmp_path / "copied.zip")
    assert (tmp_path / "copied.zip").read_bytes() == packed.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        bundle(filled, packed)


def test_what_went_in_is_named(packed: Path) -> None:
    found = json.loads(members(packed)["manifest.json"])
    assert found["base"] == {"name": "primer", "fingerprint": BASE, "identity": None}
    assert (found["versions"], found["corpora"]) == ([{"torch": "2"}], ["primer"])
    assert found["statistics"] == [{"name": "f" * 32, "site": "5.down"}]
    assert [(e["id"], e["stands"]) for e in found["edits"]] == [(key(1), False), (key(2), True), (key(3), True)]
    assert found["edits"][0]["norm_ratio"] == {"5.down": 0.25}
    assert found["edits"][0]["facts"][0]["after"] == " Lyon"


def test_every_event_is_a_command_or_says_that_there_is_none(packed: Path) -> None:
    files = members(packed)
    lines = files["commands.txt"].decode()
    first, second, tagged, dropped, last = lines.splitlines()
    assert shlex.split(first)[:3] == ["errata", "edit", "--facts"]
    row = json.loads(files[shlex.split(first)[3]])
    assert Fact.from_dict(row) == FACT
    for flag in ("corpus=primer", "layers=3,4", "limit=none", "lr=0.5", "mask=true"):
        assert f"--set {flag}" in first
    assert "seed=" not in first
    assert "--seed 1 " in first
    words = shlex.split(second)
    assert words[:8] == ["errata", "edit", "--prompt", "It's in $(x)", "--subject", "x", "--target", '"Lyon"']
    assert shlex.split(tagged) == ["errata", "tag", "one", "--move", "--author", "Ann", "--reason", "first"]
    assert shlex.split(dropped) == ["errata", "drop", key(1), "--author", "Ann", "--reason", "no longer"]
    assert last == f"# event 5: write {key(3)}"


def test_an_identity_goes_along_where_the_chain_vouches_for_it(tmp_path: Path) -> None:
    identity = Identity("w", "float32", 9, {"a": 1})
    with Book.open(tmp_path / "a", identity, "m") as book:
        book.append([edit(1, base=identity.fingerprint)])
        bundle(book, tmp_path / "a.zip")
    unbundle(tmp_path / "a.zip", tmp_path / "b")
    with Book.open(tmp_path / "b", identity) as again:
        assert again.name == "m"
    assert "--dtype float32" in members(tmp_path / "a.zip")["commands.txt"].decode()

    def swapped(log: Any) -> None:
        log["meta"]["identity"] = Identity("other", "float32", 9, {}).to_json()

    altered(tmp_path / "a.zip", swapped)
    unbundle(tmp_path / "a.zip", tmp_path / "c")
    with Book.open(tmp_path / "c", identity), pytest.raises(ErrataError):
        Book.open(tmp_path / "c", Identity("other", "float32", 9, {}))


def test_who_signed_is_looked_at(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    public = signing.make_key(tmp_path / "key.pem")
    with Book.open(tmp_path / "a", BASE, "m", key=tmp_path / "key.pem") as book:
        book.append([edit(1)])
        bundle(book, tmp_path / "a.zip")
    done = unbundle(tmp_path / "a.zip", tmp_path / "b", trust=[public], head=verify_head(tmp_path / "a"))
    assert done.signers == {public: 1}
    for wrong, words in (({"trust": ["0" * 64]}, "not trusted"), ({"head": "f" * 64}, "not in the history")):
        with pytest.raises(BadBook, match=words):
            unbundle(tmp_path / "a.zip", tmp_path / "c", **wrong)  # type: ignore[arg-type]
        assert not (tmp_path / "c").exists()


def verify_head(path: Path) -> str:
    with Book.open(path) as book:
        return verify(book).head


def test_a_book_that_is_not_whole_is_not_bundled(filled: Book, tmp_path: Path) -> None:
    file = filled.path / "edits" / f"{filled.get(key(2)).sha256}.safetensors"
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(BadBook, match="not whole"):
        bundle(filled, tmp_path / "b.zip")
    file.write_bytes(data)
    with pytest.raises(InputError, match="cannot write"):
        bundle(filled, tmp_path / "none" / "b.zip")
    with Book.open(tmp_path / "unbound") as nobodys, pytest.raises(BadBook, match="bound to no model"):
        bundle(nobodys, tmp_path / "b.zip")
    assert list(tmp_path.glob("*.zip")) == []
    assert list(tmp_path.glob(".*")) == []


def test_forgotten_tensors_are_left_out(filled: Book, tmp_path: Path) -> None:
    from errata.book.compact import compact

    compact(filled, forget=True)
    bundle(filled, tmp_path / "b.zip")
    assert sum(name.startswith("edits/") for name in members(tmp_path / "b.zip")) == 2
    unbundle(tmp_path / "b.zip", tmp_path / "b")


# --- what is refused -------------------------------------------------------------------------------------------------


def again(file: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Write a bundle with other members, the manifest made to agree."""
    import hashlib

    found = members(file)
    change(found)
    manifest = json.loads(found["manifest.json"])
    manifest["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in found.items()
        if name != "manifest.json"
    }
    found["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in found.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def altered(file: Path, change: Callable[[Any], None]) -> None:
    """Write a bundle with another log, the manifest made to agree."""

    def log(found: dict[str, bytes]) -> None:
        parsed = json.loads(found["book.json"])
        change(parsed)
        found["book.json"] = json.dumps(parsed).encode()

    again(file, log)


def refused(file: Path, words: str, kind: type[ErrataError] = InputError, **options: Any) -> None:
    """Opening it is refused in these words, and nothing is left."""
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(kind, match=words):
        unbundle(file, file.parent / "opened", **options)
    assert sorted(file.parent.rglob("*")) == before


def entry(name: str, kind: int = stat.S_IFREG, how: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.create_system, found.external_attr, found.compress_type = 3, (kind | 0o644) << 16, how
    return found


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/cron.d/evil", "edits/../../evil", "edits/", "facts/../x.jsonl", "C:\\evil", "..\\evil", "book.sqlite",
        "bundle/manifest.json", "edits/ABC.safetensors", "lock", "gates.toml/x", "manifest.json\n", "facts/é.jsonl",
        "facts/x.jsonl\0.py", f"edits/{'0' * 64}.safetensors/../../../x",
    ],
)  # fmt: skip
def test_names_that_leave_or_are_of_no_bundle(packed: Path, name: str) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry("x" * len(name.encode())), b"evil")
    raw = packed.read_bytes().replace(b"x" * len(name.encode()), name.encode())  # zipfile would tidy the name
    packed.write_bytes(raw)
    refused(packed, "of a bundle, or leaves it|link or no file|no bundle, or a damaged one")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_what_is_no_file(packed: Path, kind: int) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry("facts/link.jsonl", kind), b"/etc/passwd")
    refused(packed, "link or no file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_twice_compressed_or_too_large(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = packed.read_bytes()
    refused(packed, r"more than the 100 that are opened; see --limit", limit=100)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry("facts/bomb.jsonl", how=zipfile.ZIP_DEFLATED), b"\0" * 10_000_000)
    refused(packed, "is compressed")
    packed.write_bytes(clean)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry("gates.toml"), b"said = 0.0")
    refused(packed, "twice")
    packed.write_bytes(clean)
    monkeypatch.setattr(bundles, "TEXTS", 10)
    refused(packed, "more than the 10 that are read")


def test_members_that_lie_over_one_another(packed: Path) -> None:
    """The same bytes under many names would be many times the archive's size."""
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry("facts/a.jsonl"), b"\n" * 50_000)
        (one,) = [i for i in archive.infolist() if i.filename == "facts/a.jsonl"]
        for number in range(9):
            twin = entry(f"facts/a{number}.jsonl")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                one.header_offset,
                50_000,
                50_000,
                one.CRC,
            )
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    refused(packed, "larger than itself")


def test_what_is_no_archive(packed: Path, tmp_path: Path) -> None:
    clean = packed.read_bytes()
    for data in (b"", b"PK", b"x" * 1000, clean[:-30], clean[: len(clean) // 2], _tar()):
        packed.write_bytes(data)
        refused(packed, "no bundle, or a damaged one|there is no")
    packed.write_bytes(clean)
    for gone in ("manifest.json", "book.json", "commands.txt"):
        with zipfile.ZipFile(packed, "w") as archive:
            for name in {"manifest.json", "book.json", "commands.txt"} - {gone}:
                archive.writestr(entry(name), b"{}")
        refused(packed, f"no {gone} in it")
    refused(tmp_path / "none.zip", "cannot open")


def _tar() -> bytes:
    import tarfile

    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"))
    return found.getvalue()


def test_any_flipped_byte_is_noticed(packed: Path) -> None:
    """Of what is read; times and attributes in the archive's headers say nothing about the book."""
    clean = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        places = [(i.header_offset + 30 + len(i.filename), i.file_size) for i in archive.infolist()]
    for start, size in places:
        for at in {start, start + size // 2, start + size - 1}:
            packed.write_bytes(clean[:at] + bytes([clean[at] ^ 1]) + clean[at + 1 :])
            refused(packed, "get another copy", ErrataError)
    offset = struct.unpack("<I", clean[-6:-2])[0]
    packed.write_bytes(clean[:offset] + b"\0" * 4 + clean[offset + 4 :])
    refused(packed, "damaged")


def test_files_must_be_what_they_are_called(packed: Path) -> None:
    clean = packed.read_bytes()

    def other(found: dict[str, bytes]) -> None:
        found[next(name for name in found if name.startswith("edits/"))] += b"x"

    def stray(found: dict[str, bytes]) -> None:
        import hashlib

        found[f"edits/{hashlib.sha256(b'x').hexdigest()}.safetensors"] = b"x"

    def lost(found: dict[str, bytes]) -> None:
        del found[next(name for name in found if name.startswith("edits/"))]

    for change, words in ((other, "its hash differs"), (stray, "does not name"), (lost, "not whole: cannot read")):
        packed.write_bytes(clean)
        again(packed, change)
        refused(packed, words, BadBook)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda log: log["events"].pop(), "not whole"),
        (lambda log: log["events"].pop(0), "not whole"),
        (lambda log: log["events"].clear(), "not whole"),
        (lambda log: log["edits"].pop(), "does not name|is none"),
        (lambda log: log["meta"].update(name="other"), "not whole: event 1"),
        (lambda log: log["meta"].update(base="0" * 64), "not whole: event 1"),
        (lambda log: log["meta"].pop("base"), "which base model"),
        (lambda log: log["events"][1].__setitem__(4, "Eve"), "not whole: event 2"),
        (lambda log: log["edits"][0].__setitem__(6, "{}"), "not whole: event 1"),
        (lambda log: log["edits"][0].__setitem__(3, "../../../../etc/passwd"), "a sha256 that is none"),
        (lambda log: log["edits"][0].__setitem__(0, 2**70), "a seq that is none"),
        (lambda log: log["edits"][0].__setitem__(0, True), "a seq that is none"),
        (lambda log: log["edits"][0].__setitem__(2, {"a": 1}), "a method that is none"),
        (lambda log: log["edits"][0].append(1), "are no rows"),
        (lambda log: log.update(edits=None), "are no rows"),
        (lambda log: log["events"][0].__setitem__(2, "nobody"), "not whole|is none"),
        (lambda log: log["edits"].append(log["edits"][0]), "is none"),
        (lambda log: log.update(format=99), "format 99"),
    ],
)
def test_a_log_that_was_altered(packed: Path, change: Callable[[Any], None], words: str) -> None:
    altered(packed, change)
    refused(packed, words, BadBook)


def test_a_log_that_was_cut_off(filled: Book, tmp_path: Path) -> None:
    tag(filled, "last")
    bundle(filled, tmp_path / "b.zip")
    altered(tmp_path / "b.zip", lambda log: log["events"].pop())
    refused(tmp_path / "b.zip", "not the one its manifest is about", BadBook)


@pytest.mark.parametrize(
    ("text", "words", "kind"),
    [
        (b"[]", "no object", BadBook),
        (b"{", "cannot be read", BadBook),
        (b"[" * 100_000, "cannot be read", BadBook),
        (b"\xff", "cannot be read", BadBook),
        (b"{}", "does not say its format", BadBook),
        (b'{"format": 3}', "update errata", NewerBook),
        (b'{"format": 1, "files": {}}', "not those its manifest names", BadBook),
    ],
)
def test_a_manifest_that_is_none(packed: Path, text: bytes, words: str, kind: type[ErrataError]) -> None:
    found = members(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in (found | {"manifest.json": text}).items():
            archive.writestr(entry(name), data)
    refused(packed, words, kind)


def test_only_a_new_directory_is_taken(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    unbundle(packed, tmp_path / "empty")
    for name in ("empty", "b.zip"):
        with pytest.raises(InputError, match="there already and not empty"):
            unbundle(packed, tmp_path / name)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="name a new directory"):
        unbundle(packed, tmp_path / "link")
    assert list((tmp_path / "target").iterdir()) == []
