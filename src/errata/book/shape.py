"""What may be in a book's database: the tables, indexes and triggers of its version as our migrations make them, to the letter.

Anything else could act in the owner's name: a trigger changes what she writes before it is signed, a view answers in a table's
place, and tables of another version than the file says would be migrated, and lose their signatures.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

from errata.book.schema import MIGRATIONS, Migration, migrate, reading, version
from errata.errors import BadBook

Thing = tuple[str, str, str, str]  # kind, name, table, and how it was made


def check_shape(db: sqlite3.Connection, path: object, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Compare the database with what its version has; raises BadBook for what is there, missing or made otherwise.

    A trigger that is missing does no harm: what it kept out, the chain notices. An empty file has no version yet.
    """
    with reading(db):
        number, found = version(db), _things(db)
    if not 0 < number <= len(migrations):
        return  # a new file, another program's, or newer than we are: somebody else says so
    wanted = _made(tuple(migrations[:number]))
    for kind, name, *_ in sorted(found - wanted):
        known = any((kind, name) == thing[:2] for thing in wanted)
        how = f"has another {kind} {name} than" if known else f"has a {kind} {name}, which is not in"
        raise BadBook(
            f"{path} {how} a book of schema {number}: somebody changed it. Nothing was read or written; restore it from a copy."
        )
    if lost := sorted(thing[1] for thing in wanted - found if thing[0] != "trigger"):
        raise BadBook(f"{path} has no {lost[0]}, which a book of schema {number} has: restore it from a copy.")


def lost_triggers(db: sqlite3.Connection) -> list[str]:
    """Return the triggers that a book has and this one has not."""
    return sorted(thing[1] for thing in _made(MIGRATIONS[: version(db)]) - _things(db) if thing[0] == "trigger")


@cache
def _made(migrations: tuple[Migration, ...]) -> frozenset[Thing]:
    """Return what these migrations make; asked of SQLite itself, since it words what it renames."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(db, migrations)
        return _things(db)
    finally:
        db.close()


def _things(db: sqlite3.Connection) -> frozenset[Thing]:
    rows = db.execute("SELECT type, name, tbl_name, COALESCE(sql, '') FROM sqlite_master")
    # Tools may leave statistics for the planner, which decide about speed only.
    return frozenset(
        (str(kind), str(name), str(table), " ".join(str(sql).replace('"', "").split()))
        for kind, name, table, sql in rows
        if name not in ("sqlite_stat1", "sqlite_stat4")
    )
