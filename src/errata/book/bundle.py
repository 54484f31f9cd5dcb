"""A book as one file that somebody else opens: the log, every edit, what the base is known by, and how it was made.

    bundle(book, "capitals.errata.zip")
    unbundle("capitals.errata.zip", "capitals")       # a book as any other, looked over before it gets its name

    manifest.json      base, head, versions, corpora, statistics, figures; size and SHA-256 of every other file
    book.json          the rows of the log, from which the database is made again: no database of a stranger is opened
    commands.txt       a command line for each event; facts/ID.jsonl what these read
    edits/….safetensors, gates.toml

A zip of stored files without times: the same book gives the same bytes. Files are compressed nowhere, so that none is larger
when it is opened. What is read may be made by anyone: names, kinds and sizes are looked at before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from errata.book import chain, files, retold
from errata.book.book import Book
from errata.book.records import Record
from errata.book.schema import transaction
from errata.book.verify import Findings, verify
from errata.errors import BadBook, InputError, NewerBook, NotWritten
from errata.identity import Identity

FORMAT: Final = 2  # 1, still read: of books without an id
LIMIT: Final = 8 << 30  # bytes of a bundle that is opened, unless told otherwise
TEXTS: Final = 1 << 28  # bytes of a file of text
CHUNK: Final = 1 << 20
MANIFEST, LOG, COMMANDS, GATES = "manifest.json", "book.json", "commands.txt", "gates.toml"
_NAME: Final = re.compile(
    rf"(?:{re.escape(MANIFEST)}|{re.escape(LOG)}|{re.escape(COMMANDS)}|{re.escape(GATES)}"
    r"|edits/[0-9a-f]{64}\.safetensors|facts/[\w-]{1,64}\.jsonl)",
    re.ASCII,
)
_EDITS: Final = ("seq", "id", "method", "sha256", "bytes", "created_at", "record")
_EVENTS: Final = ("seq", "kind", "edit_id", "at", "author", "reason", "data", "hash", "signer", "signature")
_BROKEN: Final = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError, EOFError)


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle that was written or opened.

    Args:
        path: the file, or the book's directory. base: the base model's name. edits, events: how many. bytes: of the file.
        head: hash of the last event. commands: how many events a command line says. signers: events by public key.
    """

    path: str
    base: str
    fingerprint: str
    edits: int
    events: int
    bytes: int
    head: str
    commands: int
    signers: Mapping[str, int] = field(default_factory=dict)


def bundle(book: Book, file: str | os.PathLike[str]) -> Bundled:
    """Write a book as one file, which appears whole or not at all.

    Raises:
        BadBook: the book is bound to no model, or `verify` finds that something in it is not as it was written.
        InputError: the file is there already, or the disk refuses. NotWritten: it does not read back; nothing is left of it.
    """
    target, found = Path(file), verify(book)
    if target.exists():
        raise InputError(f"{target} is there already; name a new file.")
    if book.base is None:
        raise BadBook(f"the book {book.path} is bound to no model yet: there is nothing to bundle.")
    if found.problems:
        raise BadBook(f"the book is not whole, so it is not bundled: {found.problems[0]} errata verify shows all.")
    texts, edits, said = _contents(book)  # each file of an edit is compared with its hash again when it is read
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}-")
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for member in sorted({*texts, *edits}):
                archive.writestr(_entry(member), texts[member] if member in texts else book.read(edits[member]))
            archive.close()
            out.flush()
            os.fsync(out.fileno())
        _check_written(name, texts, edits)
        os.chmod(name, 0o644)
        os.replace(name, target)
        files.sync_whole(target.absolute().parent)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror}): make room, or name another file.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name or "")
    return _told(target, found, str(book.name), book.base, target.stat().st_size, said)


def unbundle(
    file: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    trust: Collection[str] = (),
    head: str = "",
    limit: int = LIMIT,
) -> Bundled:
    """Open a bundle as a book in a new directory, which appears once all of it was found to be in order.

    What is no part of a book (the manifest, commands, facts) lies in its folder ``bundle``.

    Args:
        trust: public keys, in hex; if any are given, each event must be signed by one of them. head: as in `verify`.
        limit: bytes the bundle may have.

    Raises:
        InputError: the directory is not empty, or the file is no bundle, larger than the limit, or holds what it must not.
        BadBook: a file or the log is not what the bundle says, or `verify` finds a problem. NewerBook: by a later version.
    """
    target, source = Path(directory), Path(file)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(f"{target} is there already and not empty; name a new directory.")
    try:
        size = source.stat().st_size
        if not source.is_file():  # a device may have no end, and a pipe no beginning to go back to
            raise InputError(f"{source} is no regular file: save what it gives in one.")
        if size > limit:
            raise InputError(f"{source} has {size:,} bytes, more than the {limit:,} that are opened; see --limit.")
        with zipfile.ZipFile(source) as archive, _made(target) as made:
            manifest = _extracted(archive, size, made)
            found, said = _rebuilt(made, manifest, trust, head)
            base = _read(made / "bundle" / MANIFEST)["base"]
    except OSError as error:
        raise InputError(f"cannot open {source} in {target} ({error.strerror or error}).") from error
    except _BROKEN as error:
        raise InputError(f"{source} is no bundle, or a damaged one ({error}): get another copy.") from error
    return _told(target, found, str(base["name"]), str(base["fingerprint"]), size, said)


def _check_written(name: str, texts: Mapping[str, bytes], edits: Mapping[str, Record]) -> None:
    """Read a bundle back; raises NotWritten where a file in it is another than was meant."""
    wanted = {member: hashlib.sha256(data).hexdigest() for member, data in texts.items()}
    wanted |= {member: record.sha256 for member, record in edits.items()}
    try:
        with zipfile.ZipFile(name) as archive:
            found = {member: hashlib.sha256(archive.read(member)).hexdigest() for member in archive.namelist()}
    except _BROKEN as error:
        raise NotWritten(f"the bundle was written and cannot be read ({error}); write it elsewhere.") from error
    if found != wanted:
        raise NotWritten("the bundle reads back otherwise than it was written; write it elsewhere.")


def _told(path: Path, found: Findings, name: str, base: str, size: int, said: int) -> Bundled:
    return Bundled(str(path), name, base, found.edits, found.events, size, found.head, said, found.signers)


# --- writing ---------------------------------------------------------------------------------------------------------


def _contents(book: Book) -> tuple[dict[str, bytes], dict[str, Record], int]:
    """Return texts, edits, each by its name in the bundle, and how many commands there are."""
    with book.snapshot() as db:  # of one moment, whoever writes meanwhile
        meta = dict(db.execute("SELECT key, value FROM meta ORDER BY key"))
        rows = {
            "edits": [list(row) for row in db.execute(f"SELECT {', '.join(_EDITS)} FROM edits ORDER BY seq")],
            "events": [list(row) for row in db.execute(f"SELECT {', '.join(_EVENTS)} FROM events ORDER BY seq")],
        }
        records, events, last = book.records(), book.history(), chain.head(db)[1]
    identity = Identity.from_json(meta["identity"]) if meta.get("identity") else None
    lines, facts = retold.commands(str(book.name), identity, records, events)
    gone = {event.edit_id for event in events if event.kind == "forget"}
    edits = {f"edits/{r.sha256}.safetensors": r for r in records if r.stands or r.id not in gone}
    texts = {LOG: _json({"format": FORMAT, "meta": meta, **rows}), COMMANDS: "".join(f"{x}\n" for x in lines).encode()}
    texts |= {name: text.encode() for name, text in facts.items()}
    if os.path.lexists(book.path / GATES):
        texts[GATES] = _gates(book)
    parts = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in texts.items()}
    parts |= {name: {"bytes": r.bytes, "sha256": r.sha256} for name, r in edits.items()}
    base = {"name": book.name, "fingerprint": book.base, "identity": identity and json.loads(identity.to_json())}
    about = {"format": FORMAT, "base": base, "head": last, "files": parts, **retold.ingredients(records)}
    texts[MANIFEST] = _json({**about, "edits": [retold.figures(record) for record in records]}, indent=1)
    return texts, edits, _said(lines)


def _gates(book: Book) -> bytes:
    """Return the gates that lie beside a book; what a link leads to is not put into the bundle."""
    try:
        return files.read_whole(book.path, GATES, TEXTS)
    except OSError as error:
        raise BadBook(
            f"{book.path / GATES} cannot be bundled ({error.strerror or error}): put the file itself there."
        ) from error


def _said(lines: Collection[str]) -> int:
    return sum(not line.startswith("#") for line in lines)


def _json(value: object, indent: int | None = None) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent) + "\n").encode()


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a member's header, the same whenever and wherever it is written."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    return entry


# --- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def _made(target: Path) -> Iterator[Path]:
    """Yield a new directory beside the target that takes its place when all went well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield made
        made.chmod(0o755)
        files.sync_tree(made)
        os.replace(made, target)
        files.sync_whole(target.absolute())
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return what is in a bundle by its names; raises InputError for anything that is not in one."""
    found: dict[str, zipfile.ZipInfo] = {}
    for one in archive.infolist():
        _check_member(one)
        if one.filename in found:
            raise InputError(f"the bundle holds {one.filename!r} twice: it is not opened.")
        found[one.filename] = one
    if sum(one.file_size for one in found.values()) > size:
        raise InputError("the files of the bundle are larger than itself: it is not opened.")
    for name, one in found.items():
        if not name.startswith("edits/") and one.file_size > TEXTS:
            raise InputError(
                f"{name} in the bundle has {one.file_size:,} bytes, more than the {TEXTS:,} that are read."
            )
    for name in (MANIFEST, LOG, COMMANDS):
        if name not in found:
            raise InputError(f"there is no {name} in it: this is no bundle, or a part of one.")
    return found


def _check_member(one: zipfile.ZipInfo) -> None:
    """Look at one file's name and kind; raises InputError for what no bundle holds."""
    name, kind = one.orig_filename, stat.S_IFMT(one.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InputError(f"the bundle holds {name[:100]!r}, which is a link or no file: it is not opened.")
    if not _NAME.fullmatch(name) or one.filename != name:
        raise InputError(f"the bundle holds {name[:100]!r}, which is not of a bundle, or leaves it: it is not opened.")
    if one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 or one.file_size != one.compress_size:
        raise InputError(f"{name} in the bundle is compressed or encrypted, which bundles are not: it is not opened.")


def _extracted(archive: zipfile.ZipFile, size: int, made: Path) -> dict[str, Any]:
    """Write the files of a bundle, each of which must be what the manifest says, and return the manifest."""
    members = _members(archive, size)
    for folder in ("edits", "facts"):
        (made / "bundle" / folder).mkdir(parents=True)
    _copied(archive, members.pop(MANIFEST), made / "bundle" / MANIFEST)
    manifest = _read(made / "bundle" / MANIFEST)
    _check_format(manifest)
    said = manifest.get("files")
    if not isinstance(said, dict) or said.keys() != members.keys():
        raise BadBook("the files in the bundle are not those its manifest names: get another copy.")
    for name, one in members.items():
        place = made / name if name == GATES else made / "bundle" / name
        sha256 = _copied(archive, one, place)
        wanted = name[6:70] if name.startswith("edits/") else sha256
        if said[name] != {"bytes": one.file_size, "sha256": sha256} or sha256 != wanted:
            raise BadBook(f"{name} is not what the bundle says (its hash differs): get another copy.")
    return manifest


def _check_format(manifest: Mapping[str, Any]) -> None:
    found = manifest.get("format")
    if not isinstance(found, int) or found < 1:
        raise BadBook("the bundle does not say its format: it is none, or damaged.")
    if found > FORMAT:
        raise NewerBook(f"the bundle has format {found}, this errata knows {FORMAT}: update errata to open it.")


def _copied(archive: zipfile.ZipFile, one: zipfile.ZipInfo, place: Path) -> str:
    """Write one file as it is in the archive, and return its hash."""
    digest, left = hashlib.sha256(), one.file_size
    with archive.open(one) as source, open(place, "xb") as file:
        while left > 0 and (data := source.read(min(CHUNK, left))):
            file.write(data)
            digest.update(data)
            left -= len(data)
    if left:
        raise BadBook(f"{one.filename} ends too early in the bundle: get another copy.")
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadBook(f"{path.name} of the bundle cannot be read ({error}): get another copy.") from error
    if not isinstance(found, dict):
        raise BadBook(f"{path.name} of the bundle is no object: get another copy.")
    return found


def _rebuilt(made: Path, manifest: Mapping[str, Any], trust: Collection[str], head: str) -> tuple[Findings, int]:
    """Make the database out of the log, and look the book over."""
    file = made / "bundle" / LOG
    log = _read(file)
    _check_format(log)
    meta, edits, events = _meta(log), _rows(log, "edits", _EDITS), _rows(log, "events", _EVENTS)
    if {name.name[:64] for name in (made / "bundle" / "edits").iterdir()} - {row[3] for row in edits}:
        raise BadBook("the bundle has files of edits that its log does not name: get another copy.")
    with Book.open(made) as book:
        _fill(book, meta, edits, events)
    (made / "edits").rmdir()  # a book is not made where edits are, so they come in afterwards
    (made / "bundle" / "edits").rename(made / "edits")
    file.unlink()
    with Book.open(made, create=False) as book:
        found = verify(book, trust=trust, head=head)
        base = manifest.get("base")
        same = isinstance(base, dict) and (base.get("fingerprint"), base.get("name")) == (book.base, book.name)
        if found.problems or found.head != manifest.get("head") or not same:
            why = found.problems[0] if found.problems else "its log is not the one its manifest is about."
            raise BadBook(f"the bundle is not whole: {why}")
        lines = _retold(book, made / "bundle")
    return found, _said(lines)


def _retold(book: Book, place: Path) -> list[str]:
    """Write the commands and facts anew out of the log, and return the commands: those in the bundle nothing vouches for."""
    shutil.rmtree(place / "facts")
    (place / "facts").mkdir()
    kept = book.meta().get("identity")
    identity = Identity.from_json(kept) if kept else None
    lines, facts = retold.commands(str(book.name), identity, book.records(), book.history())
    for name, text in {COMMANDS: "".join(f"{line}\n" for line in lines), **facts}.items():
        (place / name).write_text(text, encoding="utf-8")
    return lines


def _fill(book: Book, meta: Mapping[str, str], edits: list[list[Any]], events: list[list[Any]]) -> None:
    try:
        with book.query() as db, transaction(db):
            db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", list(meta.items()))
            for table, columns, rows in (("edits", _EDITS, edits), ("events", _EVENTS, events)):
                places = ", ".join("?" * len(columns))
                db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
    except BadBook as error:
        raise BadBook(f"the log of the bundle is none ({error}): get another copy.") from error


def _meta(log: Mapping[str, Any]) -> dict[str, str]:
    """Return what a book is bound to; its parts only if they are those of the fingerprint that the chain vouches for."""
    meta = log.get("meta")
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), str) for key in ("base", "name")):
        raise BadBook("the bundle does not say which base model it is of: get another copy.")
    found = {key: meta[key] for key in ("base", "name", "id") if isinstance(meta.get(key), str)}
    parts = meta.get("identity")
    if isinstance(parts, str) and Identity.from_json(parts).fingerprint == meta["base"]:
        found["identity"] = parts
    return found


def _rows(log: Mapping[str, Any], table: str, columns: tuple[str, ...]) -> list[list[Any]]:
    """Return rows of the log; raises BadBook for what no row of that table is."""
    found = log.get(table)
    if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == len(columns) for row in found):
        raise BadBook(f"the {table} of the bundle are no rows: get another copy.")
    for row in found:
        for column, value in zip(columns, row, strict=True):
            number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
            right = number if column in ("seq", "bytes") else isinstance(value, str)
            right = right or (column == "edit_id" and value is None)
            if column in ("sha256", "hash"):
                right = right and bool(re.fullmatch(r"[0-9a-f]{64}", value, re.ASCII))
            if not right:
                raise BadBook(f"the {table} of the bundle hold a {column} that is none: get another copy.")
    return found
