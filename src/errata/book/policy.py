"""What a book asks of whoever uses it: written into its chain, so that it cannot be changed beside it.

    # book.toml, taken over with: errata policy book.toml
    signed_by = ["66635e0d…"]        # public keys: every event from here on is signed by one of them
    demand = ["open"]                # where that is looked at: open (whatever opens the model), ask, edit, serve
    head = true                      # and an earlier head must be named ($ERRATA_HEAD) and still be in the history

    [gates]                          # in place of gates.toml beside the book
    said = 0.9

What came before the policy is vouched for by the signature under it. The next policy must itself be signed as this one asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from errata.book import chain, signing
from errata.book.records import Note, Signs
from errata.content import read_file
from errata.errors import BadBook, BadConfig, BadFile

Use = Literal["open", "ask", "edit", "serve"]
TRUST, HEAD = "ERRATA_TRUST", "ERRATA_HEAD"  # what is demanded from outside: keys, and a head or the file that holds it
TEXT: Final = 1 << 20  # bytes of a policy that are read
SENTINELS: Final = 1 << 30  # of a file of sentinels
_KEY: Final = 64  # hexadecimal digits


@dataclass(frozen=True, kw_only=True)
class BookPolicy:
    """What is asked; of nothing nothing."""

    signed_by: tuple[str, ...] = field(default=(), metadata={"help": "public keys, one of which signs every event"})
    demand: tuple[Use, ...] = field(default=("open",), metadata={"help": "where: open, ask, edit, serve"})
    head: bool = field(default=False, metadata={"help": "an earlier head must be named, and be in the history"})

    def __post_init__(self) -> None:
        for key in self.signed_by:
            if not signing.is_key(key):
                raise BadConfig(
                    f"{key[:80]!r} is no public key: errata keygen prints one, of {_KEY} hexadecimal digits."
                )
        object.__setattr__(self, "signed_by", tuple(key.lower() for key in self.signed_by))

    def asks(self, use: Use) -> bool:
        """Return whether something is demanded of this use; opening a book is a part of every other one."""
        return bool(self.signed_by or self.head) and ("open" in self.demand or use in self.demand)


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """A policy where it stands in the chain, with the gates it sets; event 0 is that of a book that has none."""

    policy: BookPolicy = field(default_factory=BookPolicy)
    gates: Mapping[str, Any] | None = None
    seq: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, as it lies in the event."""
        gates = {} if self.gates is None else {"gates": dict(self.gates)}
        return {
            **asdict(self.policy),
            "signed_by": list(self.policy.signed_by),
            "demand": list(self.policy.demand),
            **gates,
        }


def read(path: str | os.PathLike[str]) -> PolicyInForce:
    """Read a policy from a TOML file; raises BadFile if it cannot be read, BadConfig for what is none."""
    import tomllib  # few commands read one

    try:
        table = tomllib.loads(read_file(path, TEXT).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"cannot read a policy from {path} ({error}).") from error
    return _said(table, 0)


def _said(table: Mapping[str, Any], seq: int) -> PolicyInForce:
    from errata.config import from_dict  # most books have no policy

    gates = table.get("gates")
    if gates is not None and not isinstance(gates, Mapping):
        raise BadConfig("gates is a table: write [gates], and a line for each limit below.")
    return PolicyInForce(
        from_dict(BookPolicy, {key: value for key, value in table.items() if key != "gates"}), gates, seq
    )


class Holds(Protocol):
    """A book, as far as a policy is written into it."""

    path: Path
    signer: Signs | None

    def lock(self) -> AbstractContextManager[None]:
        """Keep other writers out."""

    def note(self, kind: str, note: Note, id: str | None = None) -> None:
        """Add an event."""

    def version(self) -> int:
        """Return the number of the last event."""


def adopt(book: Holds, said: PolicyInForce, note: Note | None = None) -> PolicyInForce:
    """Let a book ask this from now on, and return it; it takes the place of what the book asked before.

    Raises:
        BadBook: the policy asks for signatures that this event would not have, or the one before it does.
        BadFile: its gates name a file of sentinels that cannot be read.
    """
    note = note or Note()
    with book.lock():
        if said.policy.signed_by and (book.signer is None or book.signer.public not in said.policy.signed_by):
            raise BadBook("a policy is signed by a key of its own list: set $ERRATA_KEY to the file of such a key.")
        said = replace(said, gates=_pinned(book.path, said.gates))
        book.note("policy", Note(note.author, note.reason, {"policy": said.to_dict()}))
        return replace(said, seq=book.version())


def _pinned(book: Path, gates: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return gates with the hash of the file of sentinels they name: what must not move may not be moved either."""
    named = (gates or {}).get("sentinels")
    if not isinstance(named, str) or not named:
        return gates
    try:
        found = hashlib.sha256(read_file(book / named, SENTINELS)).hexdigest()
    except (OSError, ValueError) as error:
        raise BadFile(
            f"cannot read the sentinels {named!r} of the policy in {book} ({error}): put the file there."
        ) from error
    return {**(gates or {}), "sentinels_sha256": found}


def every(db: sqlite3.Connection) -> list[PolicyInForce]:
    """Return the policies of a book, oldest first; raises BadBook for one that cannot be read."""
    rows = db.execute("SELECT seq, data FROM events WHERE kind = 'policy' ORDER BY seq").fetchall()
    try:
        return [_said(json.loads(data)["policy"], seq) for seq, data in rows]
    except (BadConfig, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadBook(f"a policy of the book cannot be read ({error}): a newer errata may have written it.") from error


def unsigned(
    db: sqlite3.Connection, after: int = 0, trust: Collection[str] = (), use: Use | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (event, why) for every event after number `after` that is not signed as the policy before it, or `trust`, asks.

    Args:
        trust: public keys that must have signed all. use: what for; None looks at it wherever it is demanded.
    """
    said, wanted = every(db), {key.lower() for key in trust}
    if not wanted and not any(one.policy.signed_by for one in said):
        return
    now, later = PolicyInForce(), iter([*said, None])
    upcoming = next(later)
    rows = "SELECT seq, hash, signer, signature FROM events WHERE seq > ? OR kind = 'policy' ORDER BY seq"
    for seq, hash, signer, signature in db.execute(rows, (after,)):
        # The event that sets the first policy is held to it as well: it vouches for all before it.
        if upcoming is not None and seq == upcoming.seq and not now.policy.signed_by:
            now = upcoming
        keys = [set(now.policy.signed_by)] if now.policy.signed_by and (use is None or now.policy.asks(use)) else []
        for known in [*keys, wanted] if seq > after else ():
            if known and (signer not in known or not signing.holds(signer, signature, hash)):
                yield (
                    seq,
                    f"it is signed by {signer[:16]}, who is not trusted"
                    if signer and signer not in known
                    else ("its signature is not that of its signer" if signer else "nobody signed it"),
                )
                break
        if upcoming is not None and seq == upcoming.seq:
            now, upcoming = upcoming, next(later)


def require(db: sqlite3.Connection, path: object, use: Use, after: int = 0) -> PolicyInForce:
    """Return the policy in force, of a book that is as it and the environment ask; the chain is known to hold.

    Raises:
        BadBook: an event is not signed as is demanded, or a head is and is not there. BadConfig: `cryptography` is missing.
    """
    trust = [key for key in os.environ.get(TRUST, "").replace(",", " ").split() if key]
    for key in trust:
        if not signing.is_key(key):
            raise BadConfig(f"${TRUST} holds {key[:80]!r}, which is no public key.")
    for seq, why in unsigned(db, after, trust, use):
        raise BadBook(
            f"the book {path} asks for signatures, and event {seq} has none that counts ({why}): see errata verify."
        )
    now = (every(db) or [PolicyInForce()])[-1]
    named = os.environ.get(HEAD, "")
    if named or (now.policy.head and now.policy.asks(use)):
        _check_head(db, path, named)
    return now


def check_writer(db: sqlite3.Connection, path: object, public: str) -> None:
    """Raise BadBook unless a book may be changed by who has this public key ("" for none), on top of what is signed."""
    if not any(one.policy.signed_by for one in every(db)):
        return
    chain.require(db, path)
    asked = require(db, path, "edit").policy
    if asked.signed_by and asked.asks("edit") and public not in asked.signed_by:
        raise BadBook(
            f"the policy of the book {path} asks that changes are signed by a key of its list: set $ERRATA_KEY to the file of "
            "such a key."
        )


def _check_head(db: sqlite3.Connection, path: object, named: str) -> None:
    if not named:
        raise BadBook(
            f"the policy of the book {path} asks for an earlier head: set ${HEAD} to one, or to the file that holds it."
        )
    head = named if signing.is_key(named) else head_of(named)
    known = head == chain.genesis(db) or db.execute("SELECT 1 FROM events WHERE hash = ?", (head,)).fetchone()
    if not known:
        raise BadBook(
            f"the head {head[:16]} is not in the history of the book {path}: events were cut off or replaced."
        )


def head_of(path: str | os.PathLike[str]) -> str:
    """Return the head a file holds; raises BadFile if it holds none."""
    try:
        text = read_file(path, TEXT).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise BadFile(f"cannot read a head from {path} ({error}).") from error
    if not signing.is_key(text):
        raise BadFile(f"{path} holds no head: write the one that errata verify prints into it.")
    return text


def check_use(use: object) -> None:
    """Raise BadConfig for what no book is opened for."""
    if use not in get_args(Use):
        raise BadConfig(f"a book is opened to {', '.join(get_args(Use))}, not to {use!r}: say use= one of them.")
